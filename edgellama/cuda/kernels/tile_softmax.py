"""Online softmax over tiles of keys, for the rows that a lane has part of.

Values that belong to a lane's rows are tuples with one place for each row. Which row and key a
score belongs to is known to the tile, see ``prefill_tiles``.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import each, lanes_of, spread
from edgellama.cuda.kernels.numbers import fused, powers_of_two
from edgellama.cuda.kernels.row_registers import lanes_in, registers, values_in
from edgellama.cuda.kernels.tile_registers import constants, floats
from edgellama.cuda.kernels.warp import exchanged, larger_of
from edgellama.cuda.prefill_tiles import Tile
from edgellama.kernels_cpu.simd.vectors import tier_of


def hide(tile: Tile) -> Any:
    """Device function: scores of keys that a row does not see become minus infinity.

    It takes, for each of a lane's rows, the first and the last key of the tile that it sees.
    """
    places, rows = tile.score_places, tile.rows

    @intrinsic
    def hidden(typingctx, scores, first, last):
        lanes = lanes_of(typingctx, "f32")

        def codegen(ctx, b, sig, args):
            lane = lanes_in(b, lanes.width)
            number = constants(b, lane)
            own = b.mul(b.urem(lane, number(rows.lanes)), number(rows.key_step))
            lows, highs = ([b.sub(limit, own) for limit in values_in(b, x)] for x in args[1:])
            infinity = each(floats(lanes.width), float("-inf"))
            values = []
            for value, (row, key) in zip(values_in(b, args[0]), places, strict=True):
                is_first = b.icmp_signed("<=", lows[row], number(key))
                is_seen = b.and_(is_first, b.icmp_signed(">=", highs[row], number(key)))
                values.append(b.select(is_seen, value, infinity))
            return ctx.make_tuple(b, sig.return_type, values)

        given = registers(lanes, len(places))
        limits = registers(lanes.of("i32"), rows.count)
        return given(given, limits, limits), codegen

    return hidden


def weigh(tile: Tile) -> Any:
    """Device function: scores to weights, relative to the largest score of their row so far.

    It takes scores, the largest before and the sums of weights of the lane's own keys, and the
    scale that makes scores powers of two; it gives the weights, the largest and the sums now, and
    what results of earlier tiles are to be multiplied with.
    """
    row_of = [row for row, _ in tile.score_places]

    @intrinsic
    def weights(typingctx, scores, largest, sums, scale):
        lanes, tier = lanes_of(typingctx, "f32"), tier_of(typingctx)
        given, column = registers(lanes, len(row_of)), registers(lanes, tile.rows.count)
        result = types.Tuple((given, column, column, column))

        def codegen(ctx, b, sig, args):
            values, before, sums = (values_in(b, value) for value in args[:3])
            scale = spread(b, args[3], lanes.width)
            now = _largest(b, tile, values, before, lanes.width)
            factors = []
            for row, (old, new) in enumerate(zip(before, now, strict=True)):
                factors.append(powers_of_two(b, b.fmul(b.fsub(old, new), scale), tier))
                sums[row] = b.fmul(sums[row], factors[row])
            shifts = [b.fneg(b.fmul(highest, scale)) for highest in now]
            for i, row in enumerate(row_of):
                values[i] = powers_of_two(b, fused(b, values[i], scale, shifts[row], tier), tier)
                sums[row] = b.fadd(sums[row], values[i])
            parts = zip((given, *[column] * 3), (values, now, sums, factors), strict=True)
            tuples = [ctx.make_tuple(b, part, numbers) for part, numbers in parts]
            return ctx.make_tuple(b, result, tuples)

        return result(given, column, column, types.float32), codegen

    return weights


def _largest(b: Any, tile: Tile, values: list[Any], before: list[Any], width: int) -> list[Any]:
    """The largest score of each row, in all lanes that have part of it."""
    largest = list(before)
    for value, (row, _) in zip(values, tile.score_places, strict=True):
        largest[row] = larger_of(b, largest[row], value)
    for row, value in enumerate(largest):
        for distance in tile.rows.distances:
            value = larger_of(b, value, exchanged(b, value, distance, width))
        largest[row] = value
    return largest


def shrink(tile: Tile) -> Any:
    """Device function: results of a lane's rows times a factor for each row."""

    @intrinsic
    def scaled(typingctx, results, factors):
        def codegen(ctx, b, sig, args):
            values, factors = (values_in(b, value) for value in args)
            pairs = zip(values, tile.result_rows, strict=True)
            products = [b.fmul(value, factors[row]) for value, row in pairs]
            return ctx.make_tuple(b, sig.return_type, products)

        return results(results, factors), codegen

    return scaled


def row_sums(tile: Tile) -> Any:
    """Device function: sums of a row's weights, of all lanes that have part of it."""

    @intrinsic
    def totals(typingctx, sums):
        def codegen(ctx, b, sig, args):
            found = []
            for total in values_in(b, args[0]):
                for distance in tile.rows.distances:
                    total = b.fadd(total, exchanged(b, total, distance, sums.dtype.width))
                found.append(total)
            return ctx.make_tuple(b, sig.return_type, found)

        return sums(sums), codegen

    return totals
