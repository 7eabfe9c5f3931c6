"""Attention of a warp's 16 rows over a tile of keys, on tensor cores: scores, weights, results.

A lane has parts of rows ``lane // 4`` and eight further: of each eight columns two neighbours of
both, in four f32 one after the other. Weights become the left side of the next product where they
stand. What a lane knows of its two rows is a tuple of two.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import each, lanes_of, spread
from edgellama.cuda.kernels.memory import GLOBAL, SHARED, load_words, place
from edgellama.cuda.kernels.numbers import fused, powers_of_two
from edgellama.cuda.kernels.pairs import pair_of
from edgellama.cuda.kernels.row_registers import lanes_in, registers, values_in
from edgellama.cuda.kernels.tensor_cores import (
    WORD_KINDS,
    load_matrices,
    matrix_rows,
    multiply_add,
)
from edgellama.cuda.kernels.tile_registers import (
    constants,
    floats,
    shared_in,
    store_words_in,
)
from edgellama.cuda.kernels.warp import exchanged, larger_of
from edgellama.cuda.layouts import CHUNK_BYTES
from edgellama.cuda.prefill_tiles import WARP_ROWS, TensorTile
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import F32, I32, tier_of

ROWS = 2
"""Rows of which a lane has parts."""
QUAD = (1, 2)
"""Distances between lanes that have parts of the same rows."""


def queries_from_shared(tile: TensorTile) -> Any:
    """Device function: a warp's rows as left sides of products, four words for 16 elements.

    Where registers are too few it gives back where the rows lie.
    """
    if not tile.keeps_queries:
        return where_they_lie

    @intrinsic
    def queries(typingctx, shared, warp):
        """``shared`` is where the block's queries lie."""
        lanes, tier = lanes_of(typingctx, "i32"), tier_of(typingctx)
        result = registers(lanes, tile.width // 4)

        def codegen(ctx, b, sig, args):
            at = _query_rows(b, tile, *args, lanes.width)
            words = []
            for step in range(tile.width // 16):
                words += load_matrices(b, at, 2 * CHUNK_BYTES * step, tier)
            return ctx.make_tuple(b, result, words)

        return result(types.int64, types.int64), codegen

    return queries


@device
def where_they_lie(shared, warp):
    """Queries that stay in the block's memory."""
    return shared


def _query_rows(builder: Any, tile: TensorTile, shared: Any, warp: Any, width: int) -> Any:
    lane = lanes_in(builder, width)
    first = builder.mul(builder.trunc(warp, I32), I32(WARP_ROWS * tile.query_stride))
    rows = matrix_rows(builder, lane, tile.query_stride, CHUNK_BYTES, is_row_first=True)
    return shared_in(builder, shared, builder.add(rows, spread(builder, first, width)), width)


def score(tile: TensorTile) -> Any:
    """Device function: products of a warp's rows with all keys of a tile.

    It takes queries in registers, or where they lie, and where the keys lie.
    """
    kind, num_keys = WORD_KINDS[tile.kinds[0]], tile.num_keys

    @intrinsic
    def scores(typingctx, queries, keys, warp):
        lanes, tier = lanes_of(typingctx, "f32"), tier_of(typingctx)
        result = registers(lanes, num_keys // 2)

        def codegen(ctx, b, sig, args):
            queries, keys, warp = args
            lane = lanes_in(b, lanes.width)
            # A matrix of eight keys is a column of the page; the next chunk lies beside it.
            rows = matrix_rows(b, lane, CHUNK_BYTES, num_keys * CHUNK_BYTES, is_row_first=False)
            at = shared_in(b, keys, rows, lanes.width)
            zero = each(floats(lanes.width), 0.0)
            sums = [[zero] * 4 for _ in range(num_keys // 8)]
            if tile.keeps_queries:
                kept = values_in(b, queries)
            else:
                query_at = _query_rows(b, tile, queries, warp, lanes.width)
            for step in range(tile.width // 16):
                if tile.keeps_queries:
                    left = kept[4 * step : 4 * step + 4]
                else:
                    left = load_matrices(b, query_at, 2 * CHUNK_BYTES * step, tier)
                for pair in range(num_keys // 16):
                    offset = (2 * step * num_keys + 16 * pair) * CHUNK_BYTES
                    right = load_matrices(b, at, offset, tier)
                    for half in range(2):
                        sums[2 * pair + half] = multiply_add(
                            b, kind, left, right[2 * half : 2 * half + 2],
                            sums[2 * pair + half], tier,
                        )  # fmt: skip
            return ctx.make_tuple(b, result, [value for four in sums for value in four])

        given = registers(lanes.of("i32"), tile.width // 4) if tile.keeps_queries else types.int64
        return result(given, types.int64, types.int64), codegen

    return scores


def gather(tile: TensorTile) -> Any:
    """Device function: results of a warp's rows, and to them the values of a tile by weight.

    It takes the results, the weights in words, and where the values lie.
    """
    kind = WORD_KINDS[tile.kinds[1]]

    @intrinsic
    def gathered(typingctx, results, weights, values):
        lanes, tier = lanes_of(typingctx, "f32"), tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            results, weights, values = args
            sums, words = values_in(b, results), values_in(b, weights)
            lane = lanes_in(b, lanes.width)
            rows = matrix_rows(b, lane, tile.value_stride, CHUNK_BYTES, is_row_first=True)
            at = shared_in(b, values, rows, lanes.width)
            for step in range(tile.num_keys // 16):
                left = words[4 * step : 4 * step + 4]
                for pair in range(tile.width // 16):
                    offset = 16 * step * tile.value_stride + 2 * pair * CHUNK_BYTES
                    right = load_matrices(b, at, offset, tier, is_transposed=True)
                    for half in range(2):
                        four = slice(4 * (2 * pair + half), 4 * (2 * pair + half) + 4)
                        sums[four] = multiply_add(
                            b, kind, left, right[2 * half : 2 * half + 2], sums[four], tier
                        )
            return ctx.make_tuple(b, sig.return_type, sums)

        given = registers(lanes, tile.width // 2)
        words = registers(lanes.of("i32"), tile.num_keys // 4)
        return given(given, words, types.int64), codegen

    return gathered


def hide(tile: TensorTile) -> Any:
    """Device function: scores of keys that a row does not see become minus infinity.

    It takes, for each of a lane's rows, the first and the last key of the tile that it sees.
    """

    @intrinsic
    def hidden(typingctx, scores, first, last):
        lanes = lanes_of(typingctx, "f32")

        def codegen(ctx, b, sig, args):
            values = values_in(b, args[0])
            lane = lanes_in(b, lanes.width)
            number = constants(b, lane)
            column = b.shl(b.and_(lane, number(3)), number(1))
            lows, highs = (
                [b.sub(limit, column) for limit in values_in(b, limits)] for limits in args[1:]
            )
            infinity = each(floats(lanes.width), float("-inf"))
            for i, value in enumerate(values):
                key, row = number(i // 4 * 8 + i % 2), i % 4 // 2
                is_seen = b.and_(
                    b.icmp_signed("<=", lows[row], key), b.icmp_signed(">=", highs[row], key)
                )
                values[i] = b.select(is_seen, value, infinity)
            return ctx.make_tuple(b, sig.return_type, values)

        given = registers(lanes, tile.num_keys // 2)
        limits = registers(lanes.of("i32"), ROWS)
        return given(given, limits, limits), codegen

    return hidden


def weigh(tile: TensorTile) -> Any:
    """Device function: scores to weights, relative to the largest score of their row so far.

    It takes scores, the largest before and the sums of weights of the lane's own columns, and the
    scale that makes scores powers of two; it gives the weights in words, the largest and the sums
    now, and what results of earlier tiles are to be multiplied with.
    """
    kind = WORD_KINDS[tile.kinds[1]]

    @intrinsic
    def weights(typingctx, scores, largest, sums, scale):
        lanes, tier = lanes_of(typingctx, "f32"), tier_of(typingctx)
        given, both = registers(lanes, tile.num_keys // 2), registers(lanes, ROWS)
        words = registers(lanes.of("i32"), tile.num_keys // 4)
        result = types.Tuple((words, both, both, both))

        def codegen(ctx, b, sig, args):
            values, before, sums = (values_in(b, value) for value in args[:3])
            scale = spread(b, args[3], lanes.width)
            now, factors = [], []
            for row in range(ROWS):
                highest = before[row]
                for value in _of_row(values, row):
                    highest = larger_of(b, highest, value)
                for distance in QUAD:
                    other = exchanged(b, highest, distance, lanes.width)
                    highest = larger_of(b, highest, other)
                shift = b.fmul(b.fsub(before[row], highest), scale)
                factors.append(powers_of_two(b, shift, tier))
                sums[row] = b.fmul(sums[row], factors[row])
                now.append(highest)
            shifts = [b.fneg(b.fmul(highest, scale)) for highest in now]
            for i, value in enumerate(values):
                row = i % 4 // 2
                values[i] = powers_of_two(b, fused(b, value, scale, shifts[row], tier), tier)
                sums[row] = b.fadd(sums[row], values[i])
            packed = [
                pair_of(b, kind, values[i], values[i + 1], tier) for i in range(0, len(values), 2)
            ]
            parts = zip((words, both, both, both), (packed, now, sums, factors), strict=True)
            return ctx.make_tuple(
                b, result, [ctx.make_tuple(b, part, numbers) for part, numbers in parts]
            )

        return result(given, both, both, types.float32), codegen

    return weights


def _of_row(values: list[Any], row: int) -> list[Any]:
    """Those of a lane's numbers that belong to one of its rows."""
    return [value for i, value in enumerate(values) if i % 4 // 2 == row]


@intrinsic
def shrink(typingctx, results, factors):
    """Results of the lane's rows times a factor for each row."""

    def codegen(ctx, b, sig, args):
        values, factors = (values_in(b, value) for value in args)
        scaled = [b.fmul(value, factors[i % 4 // 2]) for i, value in enumerate(values)]
        return ctx.make_tuple(b, sig.return_type, scaled)

    return results(results, factors), codegen


@intrinsic
def inverse_sums(typingctx, sums):
    """One over the sums of a row's weights, of all four lanes that have parts of it."""

    def codegen(ctx, b, sig, args):
        inverses = []
        for total in values_in(b, args[0]):
            for distance in QUAD:
                total = b.fadd(total, exchanged(b, total, distance, sums.dtype.width))
            inverses.append(b.fdiv(each(total.type, 1.0), total))
        return ctx.make_tuple(b, sig.return_type, inverses)

    return sums(sums), codegen


def results_to_shared(tile: TensorTile) -> tuple[Any, Any]:
    """Device functions: a warp's first eight rows of results, or its others, as rows of f32.

    They go to the warp's own part of shared memory.
    """
    return _results_of_rows(tile, 0), _results_of_rows(tile, 1)


def _results_of_rows(tile: TensorTile, half: int) -> Any:
    @intrinsic
    def stored(typingctx, results, shared):
        lanes = lanes_of(typingctx, "f32")

        def codegen(ctx, b, sig, args):
            values = values_in(b, args[0])
            lane = lanes_in(b, lanes.width)
            number = constants(b, lane)
            row = b.mul(b.lshr(lane, number(2)), number(tile.output_stride))
            place = b.add(row, b.shl(b.and_(lane, number(3)), number(3)))
            at = shared_in(b, args[1], place, lanes.width)
            for column, i in enumerate(range(2 * half, len(values), 4)):
                target = b.add(at, each(at.type, 32 * column))
                store_words_in(b, target, values[i : i + 2], lanes.width)
            return ctx.get_dummy_value()

        given = registers(lanes, tile.width // 2)
        return types.void(given, types.int64), codegen

    return stored


@intrinsic
def write_pairs(typingctx, shared, target, num_pairs):
    """``num_pairs`` pairs of f32 from shared memory to global memory, up to 32, one a lane."""
    lanes = lanes_of(typingctx, "i32")

    def codegen(ctx, b, sig, args):
        lane = lanes_in(b, lanes.width)
        offsets = b.shl(lane, each(lane.type, 3))
        is_there = b.icmp_signed("<", lane, spread(b, b.trunc(args[2], I32), lanes.width))
        inside = b.select(is_there, offsets, each(lane.type, 0))
        if lanes.width == 1:
            kind = ir.VectorType(F32, 2)
            found = b.load(place(b, b.add(args[0], b.zext(inside, args[0].type)), kind, SHARED, 1))
            with b.if_then(is_there):
                at = place(b, b.add(args[1], b.zext(offsets, args[1].type)), kind, GLOBAL, 1)
                b.store(found, at)
            return ctx.get_dummy_value()
        words = load_words(b, shared_in(b, args[0], inside, lanes.width), 2, SHARED, lanes.width)
        at = shared_in(b, args[1], offsets, lanes.width)
        store_words_in(b, at, words, lanes.width, is_there)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
