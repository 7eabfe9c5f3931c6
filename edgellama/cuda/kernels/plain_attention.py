"""Attention of a warp's rows over one tile of keys in f32, without tensor cores.

A lane has some of the rows, every eighth key of the tile for the scores, and every eighth group of
four elements for the results. The rows of queries, keys, values and weights lie in shared memory as
f32. The loop over tiles is left to ``prefill_plain``.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import each, lanes_of, resized, spread
from edgellama.cuda.kernels.memory import GLOBAL
from edgellama.cuda.kernels.numbers import fused
from edgellama.cuda.kernels.row_registers import lanes_in, registers, values_in
from edgellama.cuda.kernels.tile_registers import (
    constants,
    load_four_in,
    shared_in,
    store_words_in,
)
from edgellama.cuda.kernels.tile_rows import block_rows, row_address, warp_rows
from edgellama.cuda.layouts import CHUNK_BYTES
from edgellama.cuda.prefill_tiles import PlainTile
from edgellama.kernels_cpu.simd.vectors import I32, tier_of

FOUR = 4
"""Numbers that are loaded at once."""


def add_products(tile: PlainTile) -> Any:
    """Device function: scores, and to them the products of four elements.

    It takes where these elements of the warp's first row and of the tile's first key lie.
    """
    places, rows = tile.score_places, tile.rows

    @intrinsic
    def added(typingctx, scores, queries, keys):
        lanes, tier = lanes_of(typingctx, "f32"), tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            values, width = values_in(b, args[0]), lanes.width
            row = warp_rows(b, tile, width)
            number = constants(b, row)
            query_at = shared_in(b, args[1], b.mul(row, number(tile.query_stride)), width)
            lane = b.urem(lanes_in(b, width), number(rows.lanes))
            key_at = shared_in(b, args[2], b.mul(lane, number(tile.row_stride)), width)
            left = [
                load_four_in(b, _behind(b, query_at, i * rows.far * tile.query_stride), width)
                for i in range(rows.count)
            ]
            keys = sorted({key for _, key in places})
            right = {
                key: load_four_in(b, _behind(b, key_at, key * tile.row_stride), width)
                for key in keys
            }
            for i, (row_number, key) in enumerate(places):
                for x, y in zip(left[row_number], right[key], strict=True):
                    values[i] = fused(b, x, y, values[i], tier)
            return ctx.make_tuple(b, sig.return_type, values)

        given = registers(lanes, len(places))
        return given(given, types.int64, types.int64), codegen

    return added


def _behind(builder: Any, addresses: Any, num_bytes: int) -> Any:
    return builder.add(addresses, each(addresses.type, num_bytes))


def weights_to_shared(tile: PlainTile) -> Any:
    """Device function: a warp's weights as rows of as many f32 as the tile has keys."""

    @intrinsic
    def stored(typingctx, weights, shared):
        lanes = lanes_of(typingctx, "f32")

        def codegen(ctx, b, sig, args):
            width = lanes.width
            row = warp_rows(b, tile, width)
            number = constants(b, row)
            lane = b.urem(lanes_in(b, width), number(tile.rows.lanes))
            place = b.add(b.mul(row, number(tile.num_keys)), lane)
            at = shared_in(b, args[1], b.mul(place, number(4)), width)
            for value, (row_number, key) in zip(
                values_in(b, args[0]), tile.score_places, strict=True
            ):
                offset = 4 * (row_number * tile.rows.far * tile.num_keys + key)
                store_words_in(b, _behind(b, at, offset), [value], width)
            return ctx.get_dummy_value()

        given = registers(lanes, len(tile.score_places))
        return types.void(given, types.int64), codegen

    return stored


def add_values(tile: PlainTile) -> Any:
    """Device function: results, and to them four keys' values by weight.

    It takes where the weights of these keys of the warp's first row lie, and the first value.
    """
    rows, columns = tile.rows, tile.lane_columns

    @intrinsic
    def added(typingctx, results, weights, values):
        lanes, tier = lanes_of(typingctx, "f32"), tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            sums, width = values_in(b, args[0]), lanes.width
            row = warp_rows(b, tile, width)
            number = constants(b, row)
            weight_at = shared_in(b, args[1], b.mul(row, number(4 * tile.num_keys)), width)
            lane = b.urem(lanes_in(b, width), number(rows.lanes))
            value_at = shared_in(b, args[2], b.mul(lane, number(CHUNK_BYTES)), width)
            weights = [
                load_four_in(b, _behind(b, weight_at, i * rows.far * 4 * tile.num_keys), width)
                for i in range(rows.count)
            ]
            for key in range(FOUR):
                for column in range(columns):
                    offset = key * tile.row_stride + column * rows.lanes * CHUNK_BYTES
                    four = load_four_in(b, _behind(b, value_at, offset), width)
                    for i in range(rows.count):
                        first = (i * columns + column) * FOUR
                        for at, value in enumerate(four, first):
                            sums[at] = fused(b, weights[i][key], value, sums[at], tier)
            return ctx.make_tuple(b, sig.return_type, sums)

        given = registers(lanes, len(tile.result_rows))
        return given(given, types.int64, types.int64), codegen

    return added


def write_results(tile: PlainTile) -> Any:
    """Device function: results to their rows in global memory, as ``queries_to_shared`` reads."""
    rows, columns = tile.rows, tile.lane_columns

    @intrinsic
    def written(typingctx, results, y, y_stride, head_size, group, first_row, num_rows, warp):
        lanes = lanes_of(typingctx, "f32")

        def codegen(ctx, b, sig, args):
            width, values = lanes.width, values_in(b, args[0])
            y, y_stride, *others = args[1:]
            head_size, group, first_row, num_rows, warp = (b.trunc(x, I32) for x in others)
            lane = b.urem(lanes_in(b, width), each(lanes_in(b, width).type, rows.lanes))
            number = constants(b, lane)
            size, last = spread(b, head_size, width), spread(b, num_rows, width)
            for i, row in enumerate(block_rows(b, tile, warp, width)):
                is_real = b.icmp_signed("<", row, last)
                inside = b.select(is_real, row, number(0))
                real = b.add(inside, spread(b, first_row, width))
                at = row_address(b, y, y_stride, head_size, group, real, width)
                for place in range(0, columns * FOUR, 2):
                    column, rest = divmod(place, FOUR)
                    first = number(column * rows.lanes * FOUR + rest)
                    element = b.add(b.mul(lane, number(FOUR)), first)
                    is_there = b.and_(is_real, b.icmp_signed("<", element, size))
                    target = b.add(at, resized(b, b.mul(element, number(4)), "i64", width))
                    pair = values[i * columns * FOUR + place :][:2]
                    store_words_in(b, target, pair, width, is_there, GLOBAL)
            return ctx.get_dummy_value()

        given = registers(lanes, len(tile.result_rows))
        return types.void(given, *[types.int64] * 7), codegen

    return written
