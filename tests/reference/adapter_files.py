"""Writes LoRA adapters as GGUF files, and says what merging them would make of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from reference.tiny_models import Array, TinyLlama

EMBEDDING = "token_embd"
Factors = Mapping[str, tuple[Array, Array]]


def random_gguf_factors(
    model: TinyLlama, rank: int = 4, seed: int = 0, *, names: list[str] | None = None
) -> dict[str, tuple[Array, Array]]:
    """A (rank, columns) and B (rows, rank) in GGUF's order; of the embedding (tokens, rank).

    With an alpha of 8 they change a matrix by half of what it is.
    """
    rng = np.random.default_rng(seed)
    factors = {}
    for name, (rows, columns) in model.matrix_shapes().items():
        if (names is not None and name not in names) or (names is None and name == EMBEDDING):
            continue
        shapes = ((rank, columns), (rows, rank))
        if name == EMBEDDING:
            shapes = ((rows, rank), (columns, rank))
        a = rng.normal(0, columns**-0.5, shapes[0]).astype(np.float32)
        factors[name] = (a, rng.normal(0, rank**0.5 / 16, shapes[1]).astype(np.float32))
    return factors


def write_gguf_adapter(
    path: Path,
    factors: Factors,
    *,
    alpha: float | None = 8.0,
    format_name: str = "F32",
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Array] | None = None,
) -> Path:
    """A file as llama.cpp writes it; ``metadata`` and ``tensors`` are added to it, or replace."""
    fields = {"general.type": "adapter", "adapter.type": "lora"} | dict(metadata or {})
    writer = GGUFWriter(path, str(fields.pop("general.architecture", "llama")))
    for key, value in fields.items():
        writer.add_string(key, value)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    arrays = {}
    for name, (a, b) in factors.items():
        arrays |= {f"{name}.weight.lora_a": a, f"{name}.weight.lora_b": b}
    for name, values in (arrays | dict(tensors or {})).items():
        used = "F16" if format_name == "Q8_0" and values.shape[-1] % 32 else format_name
        ggml_type = GGMLQuantizationType[used]
        writer.add_tensor(name, quants.quantize(values, ggml_type), raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def added_to(weights: Mapping[str, Array], *added: tuple[Factors, float]) -> dict[str, Array]:
    """Weights plus factor * B A of each (factors, factor), f64."""
    merged = {name: values.astype(np.float64) for name, values in weights.items()}
    for factors, factor in added:
        for name, (a, b) in factors.items():
            product = b.astype(np.float64) @ (a.T if name == EMBEDDING else a).astype(np.float64)
            merged[f"{name}.weight"] += factor * (product.T if name == EMBEDDING else product)
    return merged
