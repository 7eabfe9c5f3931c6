"""Attention of a warp's 16 rows over one tile of keys on tensor cores: scores, weights and results.

A lane holds parts of two rows: row ``lane // 4`` and the eighth row after it. Of every eight
columns it has two neighbours in each row, four f32 in all. Weights become the left side of the next
product without moving to another lane. Values that belong to a lane's two rows are tuples of two.
The loop over tiles is left to ``prefill``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import each, lanes_of, spread
from edgellama.cuda.kernels.memory import GLOBAL, SHARED, load_words, place
from edgellama.cuda.kernels.pairs import pair_of
from edgellama.cuda.kernels.row_registers import lanes_in, registers, values_in
from edgellama.cuda.kernels.tensor_cores import (
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
from edgellama.cuda.layouts import CHUNK_BYTES
from edgellama.cuda.prefill_tiles import WARP_ROWS, TensorTile
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import F32, I32, tier_of


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
    kind, num_keys = tile.multiplied[0], tile.num_keys

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
    kind = tile.multiplied[1]

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


def pack(tile: TensorTile) -> Any:
    """Device function: weights in pairs, the left sides of products with values."""
    kind = tile.multiplied[1]

    @intrinsic
    def packed(typingctx, weights):
        lanes, tier = lanes_of(typingctx, "i32"), tier_of(typingctx)
        result = registers(lanes, tile.num_keys // 4)

        def codegen(ctx, b, sig, args):
            values = values_in(b, args[0])
            pairs = zip(values[::2], values[1::2], strict=True)
            return ctx.make_tuple(b, result, [pair_of(b, kind, *pair, tier) for pair in pairs])

        return result(registers(lanes.of("f32"), tile.num_keys // 2)), codegen

    return packed


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
