"""The NumPy Llama and the engine against logits that ``transformers`` computed."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference.numpy_llama import NumpyLlama
from reference.tiny_models import TinyLlama, write_llama

from edgellama.quant.gguf.file import GGUFFile

GOLDEN_FILES = sorted(DATA.glob("golden_*.npz"))
NAMES = [path.stem.removeprefix("golden_") for path in GOLDEN_FILES]
TOLERANCE = 1e-4


class Golden:
    """One golden case, written as a GGUF file with F32 weights."""

    def __init__(self, source: Path, folder: Path) -> None:
        arrays: dict[str, Any] = dict(np.load(source))
        self.tokens = arrays.pop("tokens").tolist()
        self.logits = arrays.pop("logits")
        shape = json.loads(str(arrays.pop("shape")))
        assert set(shape) <= {field.name for field in fields(TinyLlama)}
        self.path = write_llama(folder / f"{source.stem}.gguf", TinyLlama(**shape), arrays)


@pytest.fixture(params=GOLDEN_FILES, ids=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    """Each golden case in turn."""
    return Golden(request.param, tmp_path)


def test_the_cases_are_there() -> None:
    """MHA and GQA, tied and untied, a free head size with biases, a window, each RoPE scaling."""
    assert NAMES == [
        "gqa_tied",
        "head_size_biases",
        "linear_rope",
        "llama3_rope",
        "mha_untied",
        "window",
        "yarn_rope",
    ]


def test_numpy_llama(golden: Golden) -> None:
    """The obvious NumPy Llama gives the logits of transformers at every position."""
    with GGUFFile(golden.path) as file:
        logits = NumpyLlama(file).forward(golden.tokens)
    np.testing.assert_allclose(logits, golden.logits, rtol=0, atol=TOLERANCE)


def test_engine_prefill(golden: Golden) -> None:
    """The engine with F32 weights and cache gives the logits of transformers for a whole prompt."""
    from edgellama.engine.engine import Engine

    with GGUFFile(golden.path) as file, Engine(file) as engine:
        cache = engine.new_cache(len(golden.tokens), kv_type="f32")
        logits = engine.forward(golden.tokens, cache, logits="all")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, golden.logits, rtol=0, atol=TOLERANCE)


def test_engine_decode(golden: Golden) -> None:
    """The engine gives the same logits when the tokens come one at a time."""
    from edgellama.engine.engine import Engine

    with GGUFFile(golden.path) as file, Engine(file) as engine:
        cache = engine.new_cache(len(golden.tokens), kv_type="f32")
        rows = [engine.forward([token], cache)[0] for token in golden.tokens]
    np.testing.assert_allclose(np.stack(rows), golden.logits, rtol=0, atol=TOLERANCE)
