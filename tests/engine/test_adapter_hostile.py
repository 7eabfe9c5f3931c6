"""Adapter files that are damaged, hostile or another model's: refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.adapter_files import EMBEDDING, random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.quant.errors import (
    EdgellamaError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(weight_format="F32", tied=True)
FACTORS = random_gguf_factors(MODEL, 4, names=["blk.0.attn_q", "blk.1.ffn_down"])
A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A tiny model whose output is its embedding."""
    path = write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny.gguf", MODEL)
    with GGUFFile(path) as file, Engine(file, num_threads=1) as engine:
        yield engine


def zeros(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers that fit anywhere."""
    return np.zeros(shape, np.float32)


CASES: dict[str, tuple[type[EdgellamaError], str, dict[str, Any]]] = {
    "a model": (UnsupportedModelError, "general.type is 'model'", {
        "metadata": {"general.type": "model"}}),
    "a control vector": (UnsupportedModelError, "adapter.type is 'control_vector'", {
        "metadata": {"adapter.type": "control_vector"}}),
    "another architecture": (UnsupportedModelError, "general.architecture is 'gemma'", {
        "metadata": {"general.architecture": "gemma"}}),
    "rows in another order": (ModelFileError, "'qwen2', whose queries and keys have their", {
        "metadata": {"general.architecture": "qwen2"}}),
    "an activated adapter": (UnsupportedModelError, "activated LoRA", {
        "metadata": {"adapter.alora.invocation_tokens": "x"}}),
    "NaN for an alpha": (ModelFileError, "alpha is nan; allowed: a finite number", {
        "alpha": float("nan")}),
    "a tensor that is no factor": (UnsupportedModelError, "no factor of LoRA", {
        "tensors": {"blk.0.attn_norm.weight": zeros(64)}}),
    "another model's matrix": (ModelFileError, "'blk.7.attn_q.weight', a matrix that", {
        "tensors": {"blk.7.attn_q.weight.lora_a": zeros(4, 64),
                    "blk.7.attn_q.weight.lora_b": zeros(64, 4)}}),
    "a vector of the model": (ModelFileError, "'output_norm.weight', a matrix that", {
        "tensors": {"output_norm.weight.lora_a": zeros(4, 64),
                    "output_norm.weight.lora_b": zeros(1, 4)}}),
    "one factor alone": (ModelFileError, "'blk.0.attn_k.weight' has 1 factor; needed: 2", {
        "tensors": {"blk.0.attn_k.weight.lora_a": zeros(4, 64)}}),
    "a wider model's factor": (ModelFileError, "shapes 4 x 128 and 64 x 4", {
        "tensors": {A: zeros(4, 128)}}),
    "ranks that differ": (ModelFileError, "shapes 4 x 64 and 64 x 8", {
        "tensors": {B: zeros(64, 8)}}),
    "a factor of three dimensions": (ModelFileError, "shapes 2 x 4 x 64 and 64 x 4", {
        "tensors": {A: zeros(2, 4, 64)}}),
    "too high a rank": (ModelFileError, "rank 4096; allowed: 1 to", {
        "tensors": {A: zeros(4096, 64), B: zeros(64, 4096)}}),
    "NaN": (ModelFileError, "holds NaN or Inf", {"tensors": {A: zeros(4, 64) + np.nan}}),
    "infinity": (ModelFileError, "holds NaN or Inf", {"tensors": {B: zeros(64, 4) - np.inf}}),
    "a tied embedding": (UnsupportedModelError, "which is the output too", {
        "tensors": {f"{EMBEDDING}.weight.lora_a": zeros(MODEL.vocab_size, 4),
                    f"{EMBEDDING}.weight.lora_b": zeros(64, 4)}}),
    "a format that nobody writes": (UnsupportedModelError, "has format Q4_0; supported: F32", {
        "format_name": "Q4_0", "tensors": {A: zeros(32, 64), B: zeros(64, 32)},
        "factors": {}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_adapter_of_the_model(engine: Engine, tmp_path: Path, case: str) -> None:
    """Every kind of misfit is refused with one line that names the file and what is wrong."""
    kind, text, options = CASES[case]
    factors = options.pop("factors", FACTORS)
    path = write_gguf_adapter(tmp_path / "adapter.gguf", factors, **options)
    with pytest.raises(kind) as caught:
        engine.adapters.load(path)
    message = str(caught.value)
    assert text in message and message.startswith(str(path)) and "\n" not in message
    assert not engine.adapters.loaded


def test_an_empty_adapter(engine: Engine, tmp_path: Path) -> None:
    """A file without tensors is none."""
    path = write_gguf_adapter(tmp_path / "adapter.gguf", {})
    with pytest.raises(ModelFileError, match="holds 0 tensors"):
        engine.adapters.load(path)
    with pytest.raises(ModelNotFoundError, match="no such file"):
        engine.adapters.load(tmp_path / "none.gguf")


def test_truncated_and_damaged_files(engine: Engine, tmp_path: Path) -> None:
    """A file cut anywhere is refused; one with a wrong byte is refused or read, nothing else."""
    whole = write_gguf_adapter(tmp_path / "whole.gguf", FACTORS).read_bytes()
    path = tmp_path / "cut.gguf"
    rng = np.random.default_rng(0)
    for end in rng.integers(0, len(whole) - 1, 60):
        path.write_bytes(whole[:end])
        with pytest.raises(EdgellamaError):
            engine.adapters.load(path)
    num_header_bytes = len(whole) - sum(a.nbytes + b.nbytes for a, b in FACTORS.values())
    for place in rng.integers(0, num_header_bytes, 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        try:
            adapter = engine.adapters.load(path, "damaged")
        except EdgellamaError:
            continue
        scales = engine.adapters.adapter_set({adapter: 1.0})
        engine.forward([1, 2, 3], engine.new_cache(8, adapters=scales))
        engine.adapters.unload(adapter)
