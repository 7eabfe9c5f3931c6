"""Rows to quantize, and how quantizers' errors are weighed: shared by tests and golden data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, quants

from edgellama.quant.formats import FORMATS_BY_NAME

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NUM_ROWS, NUM_COLUMNS = 40, 1536
REAL_TENSORS = (
    "blk.3.attn_q.weight",
    "blk.10.ffn_down.weight",
    "blk.28.attn_v.weight",
    "token_embd.weight",
)
LEGACY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")


def real_rows(path: Path) -> Array:
    """Rows of several tensors of the starter model."""
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    parts = []
    for name in REAL_TENSORS:
        tensor = tensors[name]
        weights = quants.dequantize(tensor.data[:300], tensor.tensor_type).reshape(-1)
        parts.append(weights[: NUM_ROWS // 4 * NUM_COLUMNS].reshape(-1, NUM_COLUMNS))
    return np.concatenate(parts).astype(np.float32)


def row_sets(starter_model: Path) -> Mapping[str, Array]:
    """Rows by name, f32 (NUM_ROWS, NUM_COLUMNS): drawn ones and those of a real model.

    The real model's weights are of four bits already; a little noise makes ordinary ones of them.
    """
    rng = np.random.default_rng(7)
    shape = (NUM_ROWS, NUM_COLUMNS)
    heavy = rng.standard_t(4, shape) * 0.02
    heavy[rng.random(shape) < 0.001] *= 10.0
    real = real_rows(starter_model)
    noise = rng.standard_normal(real.shape) * 0.03 * real.std(1, keepdims=True)
    offsets = rng.standard_normal((NUM_ROWS, NUM_COLUMNS // 32)).repeat(32, 1)
    sets = {
        "gaussian": rng.standard_normal(shape) * 0.02,
        "heavy_tailed": heavy,
        "shifted": rng.standard_normal(shape) * 0.02 + 0.03 * offsets,
        "real": real,
        "real_with_noise": real + noise,
    }
    return {name: np.ascontiguousarray(rows, np.float32) for name, rows in sets.items()}


def column_importance() -> Array:
    """A positive f32 for each column, spread as mean squares of activations are."""
    return np.exp(np.random.default_rng(3).normal(0.0, 1.2, NUM_COLUMNS)).astype(np.float32)


def error_weights(name: str, rows: Array, importance: Array | None) -> Array:
    """What ggml's quantizer of a format multiplies squared errors with, f64 like ``rows``."""
    wide = rows.astype(np.float64)
    squares = wide * wide
    if importance is None:
        if name in ("Q4_K", "Q5_K"):
            groups = squares.reshape(len(rows), -1, 32)
            return np.abs(wide) + np.sqrt(groups.mean(-1)).repeat(32, 1)
        return np.abs(wide) if name == "Q2_K" else squares
    if name == "Q6_K":
        return np.broadcast_to(importance.astype(np.float64), rows.shape)
    block = rows.shape[1] if name in LEGACY else FORMATS_BY_NAME[name].block_size
    level = squares.reshape(len(rows), -1, block).mean(-1).repeat(block, 1)
    factor = 1.0 if name in (*LEGACY, "Q2_K") else 2.0
    return importance * np.sqrt(factor * level + squares)


def errors_of(name: str, rows: Array, data: Array, importance: Array | None) -> dict[str, float]:
    """Root mean square errors of quantized rows: plain, and weighed in the ways that apply."""
    restored = quants.dequantize(data, GGMLQuantizationType[name])
    squared = (restored - rows).astype(np.float64) ** 2
    weights = {"plain": np.ones(rows.shape), "weighted": error_weights(name, rows, importance)}
    if importance is not None:
        weights["by_importance"] = np.broadcast_to(importance.astype(np.float64), rows.shape)
    return {
        kind: float(np.sqrt((weight * squared).sum() / weight.sum()))
        for kind, weight in weights.items()
    }
