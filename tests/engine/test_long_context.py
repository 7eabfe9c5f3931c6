"""Contexts of 128K tokens: prompts in chunks, memory as predicted, what is far behind is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.kernels_cpu.machine.cpu import default_num_threads
from edgellama.measure.footprint import AS_IT_IS, Machine, predict
from edgellama.measure.footprint_measurement import measure
from edgellama.measure.model_outline import ModelOutline
from edgellama.quant.gguf.file import GGUFFile

LONG = 131_072


@pytest.mark.slow
def test_128k_tokens(tmp_path: Path) -> None:
    """A context of 131,072 tokens is filled, in the memory that its footprint predicts."""
    model = TinyLlama(
        width=32, heads=2, kv_heads=1, head_size=16, layers=1, feed_forward=32,
        context_length=LONG, rope_base=5e5, rope_freqs=True,
    )  # fmt: skip
    path = write_tiny_llama(tmp_path / "long.gguf", model)
    with GGUFFile(path) as file, Engine(file) as engine:
        machine = Machine(engine.tier, default_num_threads())
        outline = ModelOutline.from_gguf(file)
    predicted = predict(
        outline, machine, type=AS_IT_IS, kv_types=KVTypes.of("f16"), context_length=LONG
    )
    steps: list[int] = []
    measured = measure(
        path, context_length=LONG, kv_type="f16", progress=lambda done, total: steps.append(done)
    )
    assert measured.num_tokens == LONG
    assert len(steps) > 50
    if measured.kv_bytes is not None:
        assert measured.kv_bytes == pytest.approx(predicted.kv_bytes, rel=0.01)
    assert measured.peak_bytes == pytest.approx(predicted.total_bytes, rel=0.1)


def test_far_positions(tmp_path: Path) -> None:
    """Attention sees the first token from far behind: another one changes what comes out."""
    model = TinyLlama(
        width=32, heads=2, kv_heads=1, head_size=16, layers=1, feed_forward=32, context_length=LONG
    )
    tokens = np.full(9000, 7)
    others = tokens.copy()
    others[0] = 200
    with (
        GGUFFile(write_tiny_llama(tmp_path / "long.gguf", model)) as file,
        Engine(file, kv_type="f32") as engine,
    ):
        steps: list[int] = []
        first = engine.forward(
            tokens, engine.new_cache(), progress=lambda done, total: steps.append(done)
        )
        second = engine.forward(others, engine.new_cache())
    assert steps[-1] == len(tokens)
    assert len(steps) >= len(tokens) // engine.step_tokens
    assert np.abs(first - second).max() > 0
