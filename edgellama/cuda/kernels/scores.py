"""Scores of a few tokens' queries with the keys of one page; copies queries to shared memory.

The products themselves are computed by ``key_products``. Softmax and the sums of values, which the
scores are needed for, are left to ``decode`` and ``value_sums``.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.cuda.decode_layout import lane_keys, padded_head
from edgellama.cuda.kernels.key_products import (
    QUAD_BYTES,
    address_of,
    chunks_at_once,
    define_add_key_products,
    define_add_scaled_products,
    define_load_key_words,
    load_key_scales,
    query_chunk_bytes,
)
from edgellama.cuda.kernels.lanes import each, lane_number, lanes_of, spread
from edgellama.cuda.kernels.memory import GLOBAL, SHARED, load_words, store_lanes
from edgellama.cuda.kernels.row_registers import f32_registers, lanes_in, registers
from edgellama.cuda.layouts import CHUNK_BYTES, WARP, num_chunks, scales_at
from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES, PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import I32, I64

CHUNK_STEP = CHUNK_BYTES * PAGE_POSITIONS
"""Bytes from a chunk of a head's keys to the next."""
SCALES_STEP = CACHE_SCALE_BYTES * PAGE_POSITIONS
"""Bytes from the scales of a group of elements to the next group's."""


def _define_stage_pair(rows: int) -> Any:
    """Intrinsic ``(source, row_bytes, num_rows, head_size, element, is_held, scale, target)``.

    Two elements, from i32 lanes ``element`` on, of all rows, scaled, into shared memory where
    ``is_held``. Rows from ``num_rows`` on repeat the last. Behind a head's end there are zeros:
    keys are padded with zeros, which NaN would spoil.
    """

    @intrinsic
    def stage(typingctx, source, row_bytes, num_rows, head_size, element, is_held, scale, target):
        width, i32 = element.width, element.llvm

        def codegen(ctx, b, sig, args):
            source, row_bytes, num_rows, head_size, element, is_held, scale, target = args
            inside = b.icmp_signed("<", element, spread(b, b.trunc(head_size, I32), width))
            behind = b.mul(b.select(inside, element, each(i32, 0)), each(i32, 4))
            last, factor = b.sub(num_rows, I64(1)), spread(b, scale, width)
            pairs = []
            for row in range(rows):
                number = b.select(b.icmp_signed("<", I64(row), last), I64(row), last)
                at = address_of(b, b.add(source, b.mul(number, row_bytes)), behind, width)
                pairs.append(load_words(b, at, 2, GLOBAL, width))
            quad = b.mul(b.lshr(element, each(i32, 2)), each(i32, rows * QUAD_BYTES))
            place = b.add(quad, b.mul(b.and_(element, each(i32, 3)), each(i32, 4)))
            for row, pair in enumerate(pairs):
                for i, word in enumerate(pair):
                    number = b.fmul(b.bitcast(word, factor.type), factor)
                    number = b.select(inside, number, each(factor.type, 0.0))
                    at = b.add(target, I64(row * QUAD_BYTES + 4 * i))
                    store_lanes(b, address_of(b, at, place, width), number, is_held, SHARED, width)
            return ctx.get_dummy_value()

        integers = [types.int64] * 4
        return types.void(*integers, element, is_held, types.float32, types.int64), codegen

    return stage


def define_stage_queries(rows: int) -> Any:
    """Device function ``(source, num_rows, head_size, scale, queries)``: heads to shared memory."""
    stage_pair = _define_stage_pair(rows)

    @device
    def stage_queries(source, num_rows, head_size, scale, queries):
        for first in range(0, padded_head(head_size), 2 * WARP):
            element = lane_number() * 2 + first
            stage_pair(source, 4 * head_size, num_rows, head_size, element,
                       element < padded_head(head_size), scale, queries)  # fmt: skip

    return stage_queries


def define_key_places(rows: int) -> Any:
    """Intrinsic ``(begin, last)``: where a lane's keys lie in a chunk, in bytes.

    The keys are those of a page from position ``begin`` on. Behind ``last`` lies garbage: its
    place stands for all behind it.
    """

    @intrinsic
    def key_places(typingctx, begin, last):
        lanes, count = lanes_of(typingctx, "i32"), lane_keys(rows)
        result = registers(lanes, count)

        def codegen(ctx, b, sig, args):
            begin, end = (spread(b, b.trunc(x, I32), lanes.width) for x in args)
            lane, places = b.add(lanes_in(b, lanes.width), begin), []
            for i in range(count):
                position = b.add(lane, each(lane.type, WARP * i))
                position = b.select(b.icmp_signed("<", position, end), position, end)
                places.append(b.mul(position, each(lane.type, CHUNK_BYTES)))
            return ctx.make_tuple(b, result, places)

        return result(types.int64, types.int64), codegen

    return key_places


def define_score(kind: str, rows: int) -> Any:
    """Device function ``(keys, head_size, begin, end, queries)``: scores of keys of a page.

    ``keys`` is the address of the head's. The keys are as many as ``keys_at_once`` from position
    ``begin`` on; ``end`` is behind the last position that is seen.
    """
    bits, elements = CACHE_NUMBER_BITS[kind], CACHE_SCALE_ELEMENTS.get(kind, 0)
    query_bytes, num_scores = query_chunk_bytes(kind, rows), rows * lane_keys(rows)
    key_places, load_words = define_key_places(rows), define_load_key_words(kind, rows)
    at_once = chunks_at_once(kind, rows)

    @device
    def words_of(keys, chunk, last, places):
        """Chunks from ``chunk`` on; the last, which is multiplied with zeros, for those behind."""
        here = min(chunk, last)
        step = (min(here + 1, last) - here) * CHUNK_STEP
        return load_words(keys + here * CHUNK_STEP, step, places)

    if elements == 0:
        add_products = define_add_key_products(kind, rows)

        @device
        def score(keys, head_size, begin, end, queries):
            places, last = key_places(begin, end - 1), num_chunks(head_size, bits) - 1
            scores = f32_registers(num_scores, 0.0)
            words = words_of(keys, 0, last, places)
            for chunk in range(0, last + 1, at_once):
                following = words_of(keys, chunk + at_once, last, places)
                scores = add_products(scores, words, queries + chunk * query_bytes)
                words = following
            return scores

        return score
    add_scaled = define_add_scaled_products(kind, rows)
    group_shift = (elements * bits // (8 * CHUNK_BYTES)).bit_length() - 1

    @device
    def score_scaled(keys, head_size, begin, end, queries):
        places, last = key_places(begin, end - 1), num_chunks(head_size, bits) - 1
        scores = f32_registers(num_scores, 0.0)
        words = words_of(keys, 0, last, places)
        scales_of_keys = keys + scales_at(head_size, bits)
        for chunk in range(0, last + 1, at_once):
            group = chunk >> group_shift
            scales = load_key_scales(scales_of_keys + group * SCALES_STEP, places)
            following = words_of(keys, chunk + at_once, last, places)
            scores = add_scaled(scores, words, scales, queries + chunk * query_bytes)
            words = following
        return scores

    return score_scaled
