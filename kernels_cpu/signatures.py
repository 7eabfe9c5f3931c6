"""What every kernel takes, by name: the contract between the program and the compiled code.

A kernel reads its arguments from a record of 8-byte slots in this order, and is told its
thread and the job's number besides. Plain data: neither
numba nor a kernel is imported here, so that a warm start never pays for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

QUANTIZED_FORMATS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS"),
)
FLOAT_FORMATS = ("F32", "F16", "BF16")
HALF_FORMATS = ("F16", "BF16")
LEGACY_FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SUPER_FORMATS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
BLOCK_SEARCH_FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL")
QUANTIZABLE_FORMATS = (*FLOAT_FORMATS, *LEGACY_FORMATS, "IQ4_NL", *SUPER_FORMATS)
"""Formats that f32 rows can be written in."""
CACHE_NUMBER_BITS = MappingProxyType({"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8, "q4_0": 4})
"""Bits of one number of the KV cache, by its type."""
CACHE_SCALE_ELEMENTS = MappingProxyType({"q8_0": 32, "q4_0": 32})
"""Elements of a head that share a scale in the types that have scales."""
CACHE_SCALE_BYTES = 2
CACHE_TYPES = tuple(CACHE_NUMBER_BITS)
ATTENTION_ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Query rows that one attention kernel over the cache as it is handles together."""
PACKED_ROWS = 6
"""Query rows of one register tile where keys and values are packed first."""
GEMM_TOKENS = 6
"""Tokens of one register tile, of many tokens."""
SKINNY_TILES = (2, 4, 8)
"""Tokens of one register tile, of a few."""
TOKEN_PADDING = 12
"""Token buffers are padded to a multiple of it, and with it to whole tiles."""
PANEL_VECTORS = 2
"""Vectors of output rows of one register tile: output buffers are padded to it."""
PAIR_BYTES = 2 * 32 * 4
"""A block of a token's gate as f32, and the block that it is multiplied with."""
SPARE_BYTES = 4 * 1024
"""Room for moving one group of blocks from rows to lanes."""
ATTENTION_KEYS = 128
"""Keys whose scores are held at once by the online softmax."""
PARTIAL_HEAD_BYTES = 64
"""Of a partial result, before its numbers: the statistics of its weights."""


SUPER_BLOCK = 8
"""Blocks of 32 weights in a super-block."""
HALVES = 2 * SUPER_BLOCK
"""Half blocks of 16 weights in a super-block."""
BLOCK_ORDERS = ((0, 4, 1, 5, 2, 6, 3, 7), (0, 2, 1, 3, 4, 6, 5, 7), (0, 1, 2, 3, 4, 5, 6, 7))
"""Orders in which formats hold the eight blocks of 32 weights of a super-block."""
ORDER_OF_FORMAT = MappingProxyType({"Q2_K": 0, "Q3_K": 0, "Q4_K": 1, "Q5_K": 1, "Q6_K": 2})
"""Which of them, for the formats that decoding reads in one."""
ORDER_CENTRES = (4, 0, 32)
"""What is taken off the quants in each order, in the formats without a minimum."""
RECORD_BYTES = 112
"""Of each block of a token in the layout that decoding reads: seven vectors of four lanes."""


def decode_bytes(num_columns: int) -> int:
    """Bytes of one token in the layout that decoding reads; see ``activations``."""
    num_blocks = num_columns // 32
    if num_blocks % SUPER_BLOCK:
        return num_blocks * RECORD_BYTES
    return num_blocks * (RECORD_BYTES + 8 + 64 * len(BLOCK_ORDERS))


def orders_of(formats: Iterable[str]) -> int:
    """The orders that decoding needs for these formats, a bit each."""
    return sum(
        1 << order for order in {ORDER_OF_FORMAT[f] for f in formats if f in ORDER_OF_FORMAT}
    )


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
QUANTIZED = ("q", "q_scale", "q_sum", "q_half_sum")
SUM_BYTES, START_AT = 8, 4
"""Of each sum in ``q_sum`` and ``q_half_sum``: its bytes, and where its second part lies."""
SCRATCH = ("scratch", "scratch_stride")
CACHE = (
    "key_offset",
    "value_offset",
    "key_head_bytes",
    "value_head_bytes",
    "key_block_bytes",
    "value_block_bytes",
)
"""Where a layer's keys and values lie in a page, and heads and blocks of positions in them."""
SEGMENTS = ("segments", "num_segments")
LAYOUTS = ("float", "decode", "prefill")
"""How a row kernel leaves its result: as f32 alone, as records, in order."""


def _matrix_signatures(name: str) -> dict[str, Signature]:
    kind = "quantized" if name in QUANTIZED_FORMATS else "float"
    embed = ("weights", "row_bytes", "num_columns", "tokens", "y", "y_stride", "num_tokens")
    vector_x = ("x", "x_stride", "chunk_rows")
    panel_x: tuple[str, ...] = ("x", "x_stride")
    table = {}
    if kind == "quantized":
        rows_x = ("x", "x_scale", "x_sum", "x_half_sum")
        for tokens in SKINNY_TILES:
            table[f"skinny_{name}_{tokens}"] = _op(
                "matrices.skinny_gemm", "skinny_gemm", (name, tokens),
                (*MATRIX, *rows_x, "chunk_rows"),
            )  # fmt: skip
        panel_x = (*rows_x, "up_weights", *QUANTIZED)
    return table | {
        f"gemv_{name}": _op("matrices.gemv", f"{kind}_gemv", (name,), MATRIX + vector_x),
        f"gemm_{name}": _op("matrices.gemm", f"{kind}_gemm", (name,), MATRIX + panel_x + SCRATCH),
        f"embed_{name}": _op("matrices.embed", f"{kind}_embed", (name,), embed),
    }


def _cache_signatures(keys: str, values: str) -> dict[str, Signature]:
    store = (
        *("q", "q_stride", "k", "v", "kv_stride", "head_size", "num_heads", "num_kv_heads"),
        *("num_pairs", "cos_sin"),
        *CACHE,
        *SEGMENTS,
    )
    read = ("q", "q_stride", "y", "y_stride", "head_size", "num_heads", "num_kv_heads", *CACHE)
    attend = (*read, *SEGMENTS, "window", "scale", "tokens_per_task", *SCRATCH)
    kinds = f"{keys}_{values}"
    table = {f"rope_store_{kinds}": _op("attention.rope", "rope_store", (keys, values), store)}
    if "f32" not in (keys, values):
        options = (keys, values, PACKED_ROWS)
        table[f"attention_{kinds}_packed"] = _op(
            "attention.tasks", "attention_packed", options, attend, ("scale",)
        )
    for rows in ATTENTION_ROWS:
        table[f"attention_{kinds}_{rows}"] = _op(
            "attention.tasks", "attention_direct", (keys, values, rows), attend, ("scale",)
        )
    return table


def _row_signatures(layout: str) -> dict[str, Signature]:
    rows = ("x", "x_stride", "width", "num_tokens")
    quantized = (*QUANTIZED, "orders")
    norm = (*rows, "weight", "y", "y_stride", "epsilon", *quantized)
    product = ("gate", "up", "y", "stride", "width", "num_tokens", *quantized)
    table = {
        f"rms_norm_{layout}": _op("rows.row_kernels", "rms_norm", (layout,), norm, ("epsilon",)),
        f"swiglu_{layout}": _op("rows.row_kernels", "swiglu", (layout,), product),
    }
    if layout != "float":
        table[f"quantize_{layout}"] = _op(
            "rows.row_kernels", "quantize", (layout,), rows + quantized
        )
    return table


def _op(
    module: str,
    factory: str,
    options: tuple[str | int, ...],
    parameters: tuple[str, ...],
    floats: tuple[str, ...] = (),
) -> Signature:
    """A kernel that shares its work through a counter."""
    return Signature(module, factory, options, (*parameters, "counter"), frozenset(floats))


def _signatures() -> dict[str, Signature]:
    rows = ("x", "x_stride", "width", "num_tokens")
    merge = ("y", "y_stride", "head_size", "num_heads", *SEGMENTS, "window")
    table = {
        "add_bias": _op("rows.row_kernels", "add_bias", (), (*rows, "bias")),
        "merge_attention": _op("attention.tasks", "merge_attention", (), merge),
        "sum_squares": _op("rows.row_kernels", "sum_squares", (), (*rows, "sums")),
    }
    for layout in LAYOUTS:
        table |= _row_signatures(layout)
    for name in QUANTIZED_FORMATS + FLOAT_FORMATS:
        table |= _matrix_signatures(name)
    for keys, values in product(CACHE_TYPES, CACHE_TYPES):
        table |= _cache_signatures(keys, values)
    table["read_bytes"] = _op(
        "matrices.bandwidth", "read_bytes", (), ("address", "num_bytes", "sink")
    )
    for entry in ("execute", "execute_timed", "serve"):
        table[entry] = Signature("threads.executor", entry, (), ("team",))
    return table


SIGNATURES: Mapping[str, Signature] = MappingProxyType(_signatures())
"""Every kernel by name, such as ``gemv_Q4_0`` or ``attention_f16_q8_0_4``."""


def _codec_signatures() -> dict[str, Signature]:
    convert, blocks = ("x", "num_values", "y"), ("x", "num_blocks", "blocks")
    measured = ("x", "y", "num_rows", "num_columns", "sums")
    choice = ("x", "num_values", "top_k", "settings", "scratch", "token")
    table = {
        "measure": Signature("quantizers.quantize_errors", "measure", (), measured),
        "choose_token": Signature("sampling.choice", "choose_token", (), choice),
    }
    for name in HALF_FORMATS:
        table[f"round_{name}"] = Signature(
            "quantizers.convert_floats", "round_floats", (name,), convert
        )
        table[f"widen_{name}"] = Signature("quantizers.convert_floats", "widen", (name,), convert)
    for name in LEGACY_FORMATS:
        table[f"round_{name}"] = Signature(
            "quantizers.quantize_legacy", "round_blocks", (name,), blocks
        )
    searched = (*blocks, "blocks_per_row", "importance", "scratch")
    for name in BLOCK_SEARCH_FORMATS:
        table[f"search_{name}"] = Signature(
            "quantizers.quantize_blocks", "search_blocks", (name,), searched
        )
    for name in SUPER_FORMATS:
        table[f"search_{name}"] = Signature(
            "quantizers.quantize_kquants", "search_super_blocks", (name,), searched
        )
    return table


CODEC_SIGNATURES: Mapping[str, Signature] = MappingProxyType(_codec_signatures())
"""The kernels of ``row_codec``, which share nothing between threads, by name."""
