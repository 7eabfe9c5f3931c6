"""What every kernel takes, by name: the contract between the program and the compiled code.

A kernel reads its arguments from a record of 8-byte slots in this order. Plain data: neither
numba nor a kernel is imported here, so that a warm start never pays for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

QUANTIZED_FORMATS = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")
FLOAT_FORMATS = ("F32", "F16", "BF16")
CACHE_TYPES = ("f32", "f16")
ATTENTION_ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Query rows that one attention kernel handles together."""
GEMM_TOKENS = 6
"""Tokens of one register tile: token buffers are padded to a multiple of it."""
PANEL_VECTORS = 2
"""Vectors of output rows of one register tile: output buffers are padded to it."""
ATTENTION_KEYS = 128
"""Keys whose scores are held at once by the online softmax."""


@dataclass(frozen=True)
class Signature:
    """Module and factory of a kernel, what the factory is told, and the argument slots."""

    module: str
    factory: str
    options: tuple[str | int, ...]
    parameters: tuple[str, ...]
    float_parameters: frozenset[str] = frozenset()


MATRIX = (
    "weights",
    "row_bytes",
    "num_rows",
    "num_columns",
    "y",
    "y_stride",
    "accumulate",
    "num_tokens",
)
CHUNKS = ("counter", "chunk_rows")
SCRATCH = ("scratch", "scratch_stride")
CACHE = (
    "keys",
    "values",
    "key_head_bytes",
    "value_head_bytes",
    "value_row_bytes",
    "position",
    "num_tokens",
)


def _matrix_signatures(name: str) -> dict[str, Signature]:
    kind = "quantized" if name in QUANTIZED_FORMATS else "float"
    panel_x = ("x", "x_scale", "x_sum", "x_half_sum") if kind == "quantized" else ("x", "x_stride")
    embed = ("weights", "row_bytes", "num_columns", "tokens", "y", "y_stride", "num_tokens")
    return {
        f"gemv_{name}": Signature(
            "gemv", f"{kind}_gemv", (name,), MATRIX + ("x", "x_stride") + CHUNKS
        ),
        f"gemm_{name}": Signature(
            "gemm", f"{kind}_gemm", (name,), MATRIX + panel_x + CHUNKS + SCRATCH
        ),
        f"embed_{name}": Signature("embed", f"{kind}_embed", (name,), embed),
    }


def _cache_signatures(kind: str) -> dict[str, Signature]:
    store = Signature(
        "rope", "store_kv", (kind,), ("k", "v", "stride", "head_size", "num_kv_heads") + CACHE
    )
    read = ("q", "q_stride", "y", "y_stride", "head_size", "num_heads", "num_kv_heads")
    work = ("scale", "tokens_per_task", "counter") + SCRATCH
    return {f"store_kv_{kind}": store} | {
        f"attention_{kind}_{rows}": Signature(
            "attention", "attention", (kind, rows), read + CACHE + work, frozenset({"scale"})
        )
        for rows in ATTENTION_ROWS
    }


def _row_signatures() -> dict[str, Signature]:
    rows = ("x", "x_stride", "width", "num_tokens")
    return {
        "rms_norm": Signature(
            "rows",
            "rms_norm",
            (),
            rows + ("weight", "y", "y_stride", "epsilon"),
            frozenset({"epsilon"}),
        ),
        "swiglu": Signature(
            "rows", "swiglu", (), ("gate", "up", "y", "stride", "width", "num_tokens")
        ),
        "add_bias": Signature("rows", "add_bias", (), rows + ("bias",)),
        "quantize_decode": Signature(
            "activations", "quantize_decode", (), rows + ("y", "y_stride")
        ),
        "quantize_prefill": Signature(
            "activations", "quantize_prefill", (), rows + ("y", "y_scale", "y_sum", "y_half_sum")
        ),
        "rope": Signature(
            "rope",
            "rope",
            (),
            ("x", "stride", "num_heads", "head_size", "num_pairs", "cos_sin", "num_tokens"),
        ),
    }


def _signatures() -> dict[str, Signature]:
    table = _row_signatures()
    for name in QUANTIZED_FORMATS + FLOAT_FORMATS:
        table |= _matrix_signatures(name)
    for kind in CACHE_TYPES:
        table |= _cache_signatures(kind)
    for entry in ("execute", "serve"):
        table[entry] = Signature("executor", entry, (), ("team",))
    return table


SIGNATURES: Mapping[str, Signature] = MappingProxyType(_signatures())
"""Every kernel by name, such as ``gemv_Q4_0`` or ``attention_f16_4``."""
