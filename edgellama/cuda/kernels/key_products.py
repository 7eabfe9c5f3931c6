"""Scores of a warp's queries with 128 or 64 keys, of which each lane has four or two.

A lane loads 16 bytes of each of its keys and multiplies them with the same elements of all queries.
The queries lie in shared memory, interleaved: four elements of the first row, the same four of the
next row, and so on, so that every offset is a constant of the compiled kernel. What the scores are
used for is left to ``scores`` and ``decode``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.decode_layout import lane_keys
from edgellama.cuda.kernels.lanes import each, spread
from edgellama.cuda.kernels.memory import GLOBAL, SHARED, load_lanes, load_words, place
from edgellama.cuda.kernels.numbers import WORDS, fused, halves_of
from edgellama.cuda.kernels.row_registers import registers, values_in
from edgellama.cuda.layouts import CHUNK_BYTES
from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.vectors import F32, I64, tier_of

WORDS_OF_CHUNK = CHUNK_BYTES // 4
QUAD, QUAD_BYTES = 4, 16
"""Elements of a query that are read at once."""


def chunks_at_once(kind: str, rows: int) -> int:
    """Chunks of each key that are loaded before they are multiplied, so that lanes wait less.

    Those of quantized types are long to multiply.
    """
    return 1 if kind in CACHE_SCALE_ELEMENTS else 4 // lane_keys(rows)


def query_chunk_bytes(kind: str, rows: int) -> int:
    """Bytes of all queries' elements of one chunk of keys."""
    return 8 * CHUNK_BYTES // CACHE_NUMBER_BITS[kind] * 4 * rows


def address_of(builder: Any, base: Any, offset: Any, width: int) -> Any:
    """A uniform address plus i32 lanes."""
    kind = I64 if width == 1 else ir.VectorType(I64, width)
    return builder.add(spread(builder, base, width), builder.sext(offset, kind))


def define_load_key_words(kind: str, rows: int) -> Callable[..., Any]:
    """Intrinsic ``(address, step, places)``: chunks of a lane's keys, four words for each key.

    ``address`` is that of the first chunk at position 0. The next chunk lies ``step`` behind it.
    ``places``, i32 lanes, tell how far behind position 0 a lane's keys lie.
    """

    @intrinsic
    def load_key_words(typingctx, address, step, places):
        lanes, count = places.dtype, chunks_at_once(kind, rows)
        result = registers(lanes, count * places.count * WORDS_OF_CHUNK)

        def codegen(ctx, b, sig, args):
            words, start = [], args[0]
            for _ in range(count):
                for offset in values_in(b, args[2]):
                    at = address_of(b, start, offset, lanes.width)
                    words += load_words(b, at, WORDS_OF_CHUNK, GLOBAL, lanes.width)
                start = b.add(start, args[1])
            return ctx.make_tuple(b, result, words)

        return result(types.int64, types.int64, places), codegen

    return load_key_words


@intrinsic
def load_key_scales(typingctx, address, places):
    """The scale of each of a lane's keys for one group of elements; ``places`` as for words."""
    lanes, tier = places.dtype, tier_of(typingctx)
    result = registers(lanes.of("f32"), places.count)
    shift = (CHUNK_BYTES // CACHE_SCALE_BYTES).bit_length() - 1

    def codegen(ctx, b, sig, args):
        scales = []
        for offset in values_in(b, args[1]):
            at = b.lshr(offset, each(offset.type, shift))
            at = address_of(b, args[0], at, lanes.width)
            bits = load_lanes(b, at, "i16", GLOBAL, lanes.width)
            scales.append(halves_of(b, b.zext(bits, lanes.llvm), lanes.width, tier)[0])
        return ctx.make_tuple(b, result, scales)

    return result(types.int64, places), codegen


def shared_quad(builder: Any, address: Any, offset: int, width: int) -> list[Any]:
    """Four f32 at a uniform address in shared memory, each in every lane."""
    vector = ir.VectorType(F32, QUAD)
    at = place(builder, builder.add(address, I64(offset)), vector, SHARED, width)
    loaded = builder.load(at, align=QUAD_BYTES)
    return [
        spread(builder, builder.extract_element(loaded, ir.Constant(ir.IntType(32), i)), width)
        for i in range(QUAD)
    ]


def _quads(builder: Any, kind: str, words: list[Any], width: int, tier: Any) -> Any:
    """For each quad of a chunk its number and, of every key, its four elements as f32."""
    keys = [words[i : i + WORDS_OF_CHUNK] for i in range(0, len(words), WORDS_OF_CHUNK)]
    numbers_of, per_word = WORDS[kind], 32 // CACHE_NUMBER_BITS[kind]
    words_of_quad = max(QUAD // per_word, 1)
    for first in range(0, WORDS_OF_CHUNK, words_of_quad):
        elements = [
            [number for word in key[first : first + words_of_quad]
             for number in numbers_of(builder, word, width, tier)]
            for key in keys
        ]  # fmt: skip
        if kind == "q4_0":
            yield first, [numbers[:QUAD] for numbers in elements]
            yield first + WORDS_OF_CHUNK, [numbers[QUAD:] for numbers in elements]
        else:
            yield first // words_of_quad, elements


def define_add_key_products(kind: str, rows: int) -> Callable[..., Any]:
    """Intrinsic ``(scores, words, queries)``: adds the products of ``chunks_at_once``.

    ``scores`` are as many registers for each row as a lane has keys; ``queries`` is the uniform
    address of the first chunk's elements of all queries.
    """

    @intrinsic
    def add_products(typingctx, scores, words, queries):
        width, tier = scores.dtype.width, tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            sums = values_in(b, args[0])
            _multiply(b, kind, sums, rows, values_in(b, args[1]), args[2], width, tier)
            return ctx.make_tuple(b, scores, sums)

        return scores(scores, words, types.int64), codegen

    return add_products


def define_add_scaled_products(kind: str, rows: int) -> Callable[..., Any]:
    """The same, ``(scores, words, scales, queries)``, times the keys' scales."""

    @intrinsic
    def add_products(typingctx, scores, words, scales, queries):
        width, tier = scores.dtype.width, tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            sums = [None] * scores.count
            _multiply(b, kind, sums, rows, values_in(b, args[1]), args[3], width, tier)
            factors = values_in(b, args[2])
            before = values_in(b, args[0])
            sums = [fused(b, x, factors[i % len(factors)], before[i], tier)
                    for i, x in enumerate(sums)]  # fmt: skip
            return ctx.make_tuple(b, scores, sums)

        return scores(scores, words, scales, types.int64), codegen

    return add_products


def _multiply(
    builder: Any, kind: str, sums: list[Any], rows: int, words: list[Any], queries: Any,
    width: int, tier: Any,
) -> None:  # fmt: skip
    """Add to ``sums``, row after row; None counts as zero."""
    count = len(words) // chunks_at_once(kind, rows)
    chunk_quads = query_chunk_bytes(kind, rows) // (rows * QUAD_BYTES)
    for chunk in range(chunks_at_once(kind, rows)):
        own = words[chunk * count : (chunk + 1) * count]
        for quad, keys in _quads(builder, kind, own, width, tier):
            first = (chunk * chunk_quads + quad) * rows
            for row in range(rows):
                query = shared_quad(builder, queries, (first + row) * QUAD_BYTES, width)
                _add_quad(builder, sums, row, keys, query, tier)


def _add_quad(
    builder: Any, sums: list[Any], row: int, keys: list[Any], query: list[Any], tier: Any
) -> None:
    for i, element in enumerate(query):
        for number, key in enumerate(keys):
            at = row * len(keys) + number
            if sums[at] is None:
                sums[at] = builder.fmul(key[i], element)
            else:
                sums[at] = fused(builder, key[i], element, sums[at], tier)
