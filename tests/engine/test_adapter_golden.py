"""Adapters that ``peft`` saved, converted and used: ``transformers``' logits with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference.tiny_adapter import write_base_config
from reference.tiny_models import TinyLlama, write_llama

from edgellama.convert import convert
from edgellama.convert.adapter.lora import convert_lora
from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile

TOLERANCE = 1e-4


class Golden:
    """The model as a GGUF file, its tokens, both adapters as GGUF files, and the logits."""

    def __init__(self, folder: Path) -> None:
        arrays: dict[str, Any] = dict(np.load(DATA / "golden_head_size_biases.npz"))
        self.tokens: list[int] = arrays.pop("tokens").tolist()
        del arrays["logits"]
        model = TinyLlama(**json.loads(str(arrays.pop("shape"))))
        self.path = write_llama(folder / "base.gguf", model, arrays)
        base = write_base_config(folder / "base", model)
        saved = dict(np.load(DATA / "adapter_golden.npz"))
        self.adapters = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            (folder / name / "adapter_config.json").write_text(str(saved[f"{name}_config"]))
            weights = folder / name / "adapter_model.safetensors"
            weights.write_bytes(saved[f"{name}_weights"].tobytes())
            self.adapters.append(convert_lora(folder / name, base=base).path)
        self.logits = saved["first_logits"], saved["both_logits"]


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    """The case."""
    return Golden(tmp_path)


def logits_of(path: Path, tokens: list[int], adapters: list[Path]) -> Any:
    """Logits of all tokens with these adapters, each at a scale of 1."""
    with GGUFFile(path) as file, Engine(file, num_threads=2, kv_type="f32") as engine:
        scales = {engine.adapters.load(adapter): 1.0 for adapter in adapters}
        cache = engine.new_cache(64, adapters=engine.adapters.adapter_set(scales))
        return engine.forward(tokens, cache, logits="all")


def test_logits_with_adapters(golden: Golden) -> None:
    """One adapter, with ranks, alphas and rsLoRA's scale of its own, and two at once."""
    for count, expected in zip((1, 2), golden.logits, strict=True):
        logits = logits_of(golden.path, golden.tokens, golden.adapters[:count])
        found = logits[-len(expected) :]
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    plain = logits_of(golden.path, golden.tokens, [])[-len(expected) :]
    assert np.abs(plain - golden.logits[0]).max() > 1


def test_logits_of_merged_weights(golden: Golden, tmp_path: Path) -> None:
    """A file with both adapters in its weights gives the same."""
    adapters = [(path, 1.0) for path in golden.adapters]
    merged = convert(golden.path, tmp_path / "merged.gguf", type="f32", adapters=adapters).path
    logits = logits_of(merged, golden.tokens, [])
    expected = golden.logits[1]
    np.testing.assert_allclose(logits[-len(expected) :], expected, rtol=0, atol=TOLERANCE)
