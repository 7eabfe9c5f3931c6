"""Models with a sliding window: each token sees the last ones, and memory is the window's alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference.numpy_llama import NumpyLlama
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(context_length=700, sliding_window=150)


@pytest.mark.parametrize("sizes", [[600], [300, 300], [1] * 20 + [580], [590, *[1] * 10]])
def test_logits_are_those_of_a_window(tmp_path: Path, sizes: list[int]) -> None:
    """Far beyond the window, long and short steps give NumPy's logits of a model with one."""
    tokens = np.random.default_rng(0).integers(0, 288, 600).tolist()
    with GGUFFile(write_tiny_llama(tmp_path / "window.gguf", MODEL)) as file:
        expected = NumpyLlama(file).forward(tokens)
        with Engine(file, num_threads=2) as engine:
            cache = engine.new_cache(kv_type="f32")
            rows = []
            for size in sizes:
                start = cache.length
                rows.append(engine.forward(tokens[start : start + size], cache, logits="all"))
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=0, atol=2e-4)


def test_pages_behind_the_window_are_given_back(tmp_path: Path) -> None:
    """However long the text, keys and values take the window and the pages at its ends."""
    with (
        GGUFFile(write_tiny_llama(tmp_path / "window.gguf", MODEL)) as file,
        Engine(file, num_threads=2) as engine,
    ):
        cache = engine.new_cache()
        engine.forward(list(range(200)), cache)
        for token in range(400):
            engine.forward([token % 288], cache)
            assert cache.num_bytes <= 3 * cache.layout.page_bytes
        assert cache.length == 600
