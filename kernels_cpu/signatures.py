"""Every kernel and what it takes: the contract between the program and the compiled code.

A kernel reads its arguments from a record of 8-byte slots in this order, and is told its
thread and the job's number besides. Plain data: neither numba nor a kernel is imported here, so
that a warm start never pays for them. Bytes and places are written in ``layouts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

from edgellama.quant.formats import (
    FLOAT_FORMATS,
    FORMATS_BY_NAME,
    QUANTIZED_FORMATS,
    WRITABLE_FORMATS,
)

CACHE_NUMBER_BITS = MappingProxyType({"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8, "q4_0": 4})
"""Bits of one number of the KV cache, by its type."""
CACHE_SCALE_ELEMENTS = MappingProxyType({"q8_0": 32, "q4_0": 32})
"""Elements of a head that share a scale in the types that have scales."""
CACHE_TYPES = tuple(CACHE_NUMBER_BITS)
ATTENTION_ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Query rows that one attention kernel over the cache as it is handles together."""
SKINNY_TILES = (2, 4, 8)
"""Tokens of one register tile, of a few."""
RECORD_TILES = (4, 8)
"""Tokens that ``gemv`` multiplies a row with at once, beside one; super-blocks only four."""
LAYOUTS = ("float", "records", "in_order")
"""How a row kernel leaves its result: as f32 alone, as the records of int8 that ``gemv`` reads,
or as int8 in order; see ``layouts``."""


class Kernel(NamedTuple):
    """One kernel: ``family`` says what it does, ``options`` what it is compiled for.

    The options are formats, types of the cache, layouts and rows or tokens of a tile.
    """

    family: str
    options: tuple[str | int, ...] = ()

    @property
    def name(self) -> str:
        """What its object file and its symbol are called, such as ``gemv_Q4_0``."""
        return "_".join((self.family, *map(str, self.options)))


class Signature(NamedTuple):
    """Module and factory of a kernel, which is told the kernel's options, and the argument slots.

    Work that is shared between threads is counted in the last slot, ``counter``.
    """

    module: str
    factory: str
    parameters: tuple[str, ...]
    float_parameters: frozenset[str] = frozenset()


Table = dict[Kernel, Signature]
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
SEGMENTS = ("segments", "num_segments", "num_tasks")
"""Numbers are bound once an op's counter is fresh: a thread that is late must not read others."""


def _matrix_signatures(name: str) -> Table:
    kind = "quantized" if name in QUANTIZED_FORMATS else "float"
    embed = ("weights", "row_bytes", "num_columns", "tokens", "y", "y_stride", "num_tokens")
    vector_x = ("x", "x_stride", "chunk_rows")
    panel_x: tuple[str, ...] = ("x", "x_stride")
    table: Table = {}
    if kind == "quantized":
        rows_x = ("x", "x_scale", "x_sum", "x_half_sum")
        for tokens in RECORD_TILES[: 1 if FORMATS_BY_NAME[name].is_super_block else 2]:
            table[Kernel("gemv", (name, tokens))] = _op(
                "matrices.gemv", "quantized_gemv", MATRIX + vector_x
            )
        for tokens in SKINNY_TILES:
            table[Kernel("skinny", (name, tokens))] = _op(
                "matrices.skinny_gemm", "skinny_gemm", (*MATRIX, *rows_x, "chunk_rows")
            )
        panel_x = (*rows_x, "up_weights", "added", *QUANTIZED)
    kernels = {
        "gemv": _op("matrices.gemv", f"{kind}_gemv", MATRIX + vector_x),
        "gemm": _op("matrices.gemm", f"{kind}_gemm", MATRIX + panel_x + SCRATCH),
        "embed": _op("matrices.embed", f"{kind}_embed", embed),
    }
    return table | {Kernel(family, (name,)): signature for family, signature in kernels.items()}


def _cache_signatures(keys: str, values: str) -> Table:
    store = (
        *("q", "q_stride", "k", "v", "kv_stride", "head_size", "num_heads", "num_kv_heads"),
        *("num_pairs", "cos_sin"),
        *CACHE,
        *SEGMENTS,
    )
    read = ("q", "q_stride", "y", "y_stride", "head_size", "num_heads", "num_kv_heads", *CACHE)
    attend = (*read, *SEGMENTS, "window", "scale", "tokens_per_task", *SCRATCH)
    table = {Kernel("rope_store", (keys, values)): _op("attention.rope", "rope_store", store)}
    if "f32" not in (keys, values):
        table[Kernel("attention_packed", (keys, values))] = _op(
            "attention.kernels", "attention_packed", attend, ("scale",)
        )
    for rows in ATTENTION_ROWS:
        table[Kernel("attention_direct", (keys, values, rows))] = _op(
            "attention.kernels", "attention_direct", attend, ("scale",)
        )
    return table


def _row_signatures(layout: str) -> Table:
    rows = ("x", "x_stride", "width", "num_tokens")
    quantized = (*QUANTIZED, "orders")
    norm = (*rows, "weight", "y", "y_stride", "epsilon", *quantized)
    product = ("gate", "up", "y", "stride", "width", "num_tokens", *quantized)
    table = {
        Kernel("rms_norm", (layout,)): _op("rows.kernels", "rms_norm", norm, ("epsilon",)),
        Kernel("swiglu", (layout,)): _op("rows.kernels", "swiglu", product),
    }
    if layout != "float":
        table[Kernel("quantize", (layout,))] = _op("rows.kernels", "quantize", rows + quantized)
    return table


def _op(
    module: str, factory: str, parameters: tuple[str, ...], floats: tuple[str, ...] = ()
) -> Signature:
    """A kernel that shares its work through a counter."""
    return Signature(module, factory, (*parameters, "counter"), frozenset(floats))


def _signatures() -> Table:
    rows = ("x", "x_stride", "width", "num_tokens")
    merge = ("y", "y_stride", "head_size", "num_heads", *SEGMENTS, "window")
    heads = (
        *("x", "x_stride", "head_size", "num_heads", "num_tokens"),
        *("weight", "epsilon", "num_pairs", *SCRATCH),
    )
    table = {
        Kernel("add_bias"): _op("rows.kernels", "add_bias", (*rows, "bias")),
        Kernel("arrange_heads"): _op("rows.heads", "arrange_heads", heads, ("epsilon",)),
        Kernel("merge_attention"): _op("attention.kernels", "merge_attention", merge),
        Kernel("scale_rows"): _op("rows.kernels", "scale_rows", (*rows, "multiple", "scales")),
        Kernel("scale_tokens"): _op("rows.kernels", "scale_tokens", (*rows, "scales")),
        Kernel("sum_squares"): _op("rows.kernels", "sum_squares", (*rows, "sums")),
    }
    for layout in LAYOUTS:
        table |= _row_signatures(layout)
    for name in QUANTIZED_FORMATS + FLOAT_FORMATS:
        table |= _matrix_signatures(name)
    for keys, values in product(CACHE_TYPES, CACHE_TYPES):
        table |= _cache_signatures(keys, values)
    table[Kernel("read_bytes")] = _op(
        "matrices.bandwidth", "read_bytes", ("address", "num_bytes", "sink")
    )
    turned = ("q", "q_stride", "k", "kv_stride", "head_size", "num_heads", "num_kv_heads")
    for keys in CACHE_TYPES:
        table[Kernel("rope", (keys,))] = _op(
            "attention.rope", "rope", (*turned, "num_pairs", "cos_sin", "num_tokens")
        )
    launches = ("card", "table", "table_source", "table_bytes", "store", "few", "many")
    tasks = ("num_tokens", "num_few_tasks", "num_many_tasks", "cancel_word")
    table[Kernel("attend_on_card")] = _op("attention.card", "attend_on_card", launches + tasks)
    for entry in ("execute", "execute_timed", "serve"):
        table[Kernel(entry)] = Signature("threads.executor", entry, ("team",))
    return table


SIGNATURES: Mapping[Kernel, Signature] = MappingProxyType(_signatures())
"""Every kernel that a program calls, and those that run programs."""


def _writer_signatures(name: str) -> Table:
    """What writes a format, besides a plain copy."""
    found = FORMATS_BY_NAME[name]
    blocks = ("x", "num_blocks", "blocks")
    searched = (*blocks, "blocks_per_row", "importance", "scratch")
    rounding = ("quantizers.quantize_legacy", "round_blocks", blocks)
    search = ("quantizers.quantize_blocks", "search_blocks", searched)
    if found.is_float:
        rounding = ("quantizers.convert_floats", "round_floats", ("x", "num_values", "y"))
    elif found.is_super_block:
        search = ("quantizers.quantize_kquants", "search_super_blocks", searched)
    kinds = {"round": rounding, "search": search}
    return {
        Kernel(writer, (name,)): Signature(*kinds[writer])
        for writer in found.writers
        if writer in kinds
    }


def _one_thread_signatures() -> Table:
    measured = ("x", "y", "num_rows", "num_columns", "sums")
    choice = ("x", "num_values", "top_k", "settings", "scratch", "token")
    table = {
        Kernel("measure"): Signature("quantizers.quantize_errors", "measure", measured),
        Kernel("choose_token"): Signature("sampling.choice", "choose_token", choice),
    }
    for name in WRITABLE_FORMATS:
        table |= _writer_signatures(name)
        if FORMATS_BY_NAME[name].is_float and "round" in FORMATS_BY_NAME[name].writers:
            table[Kernel("widen", (name,))] = Signature(
                "quantizers.convert_floats", "widen", ("x", "num_values", "y")
            )
    return table


ONE_THREAD_SIGNATURES: Mapping[Kernel, Signature] = MappingProxyType(_one_thread_signatures())
"""Every kernel that is called by itself and shares nothing between threads."""


@cache
def kernels_by_name() -> Mapping[str, Kernel]:
    """All of both by their names, which compilers alone ask for."""
    return MappingProxyType(
        {kernel.name: kernel for kernel in (*SIGNATURES, *ONE_THREAD_SIGNATURES)}
    )


def signature_of(kernel: Kernel) -> Signature:
    """What a kernel takes; KeyError for one that there is not."""
    return SIGNATURES.get(kernel) or ONE_THREAD_SIGNATURES[kernel]
