"""The query rows of a tile: token after token, each with all heads that share the KV head.

The module knows where rows come from (f32 in global memory) and which token each of a lane's rows
belongs to, which decides what keys the row sees. Their scores are left to the ``*_attention``
modules.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import each, lanes_of, resized, spread
from edgellama.cuda.kernels.memory import GLOBAL, load_words
from edgellama.cuda.kernels.pairs import narrowed_pair_of, pair_of
from edgellama.cuda.kernels.row_registers import lanes_in, registers
from edgellama.cuda.kernels.tile_registers import (
    anew,
    constants,
    floats,
    global_in,
    shared_in,
    store_words_in,
)
from edgellama.cuda.layouts import WARP
from edgellama.cuda.prefill_tiles import PlainTile, TensorTile, Tile
from edgellama.kernels_cpu.simd.vectors import F32, I32, tier_of

AT_ONCE = 16
"""Loads of a lane that are under way together."""


def token_in(builder: Any, row: Any, group: Any, width: int) -> Any:
    """The token of rows, ``row // group`` of each lane."""
    f32 = floats(width)
    # Half a row more keeps the quotient away from whole numbers, so that no rounding can matter.
    middle = builder.fadd(builder.sitofp(row, f32), each(f32, 0.5))
    quotient = builder.fdiv(middle, spread(builder, builder.sitofp(group, F32), width))
    return builder.fptosi(quotient, row.type)


def queries_to_shared(tile: Tile) -> Any:
    """Device function: a warp's rows of queries into the block's memory, as the tile has them.

    ``q`` is the row of the tile's first token, from its first head of this KV head on; of
    ``num_rows`` rows the first is ``first_row``. Elements behind the head's size are zeros.
    """
    pairs = tile.width // 2
    kind = tile.multiplied[0] if isinstance(tile, TensorTile) else "f32"
    is_narrowed = kind == "f16" and tile.kinds[0] == "bf16"

    @intrinsic
    def copied(typingctx, q, q_stride, head_size, group, first_row, num_rows, shared, warp):
        lanes, tier = lanes_of(typingctx, "i32"), tier_of(typingctx)
        width = lanes.width

        def codegen(ctx, b, sig, args):
            q, q_stride, head_size, group, first_row, num_rows, shared, warp = args
            head_size, group, first_row, num_rows, warp = (
                b.trunc(value, I32) for value in (head_size, group, first_row, num_rows, warp)
            )
            lane = lanes_in(b, width)
            if isinstance(tile, PlainTile):
                lane = anew(b, lane)
            number = constants(b, lane)
            own_rows = spread(b, b.mul(warp, I32(tile.warp_rows)), width)
            last = spread(b, b.sub(num_rows, I32(1)), width)
            first = spread(b, first_row, width)
            half_size = spread(b, b.lshr(head_size, I32(1)), width)

            def load(move: int) -> tuple[Any, list[Any]]:
                index = b.add(lane, number(move * WARP))
                row = b.add(own_rows, b.udiv(index, number(pairs)))
                pair = b.urem(index, number(pairs))
                real = b.add(first, b.select(b.icmp_signed("<", row, last), row, last))
                at = row_address(b, q, q_stride, head_size, group, real, width)
                has_pair = b.icmp_signed("<", pair, half_size)
                offset = b.shl(b.select(has_pair, pair, number(0)), number(3))
                at = b.add(at, resized(b, offset, "i64", width))
                words = load_words(b, at, 2, GLOBAL, width)
                zero = each(floats(width), 0.0)
                values = [b.select(has_pair, b.bitcast(word, zero.type), zero) for word in words]
                pair_bytes = number(8 if kind == "f32" else 4)
                target = b.add(b.mul(row, number(tile.query_stride)), b.mul(pair, pair_bytes))
                return target, values

            moves = tile.warp_rows * pairs // WARP
            for move in range(0, moves, AT_ONCE):
                found = [load(each_move) for each_move in range(move, min(move + AT_ONCE, moves))]
                for target, values in found:
                    if kind != "f32":
                        values = [
                            narrowed_pair_of(b, *values, tier) if is_narrowed
                            else pair_of(b, kind, *values, tier)
                        ]  # fmt: skip
                    store_words_in(b, shared_in(b, shared, target, width), values, width)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    return copied


def row_address(
    builder: Any, q: Any, q_stride: Any, head_size: Any, group: Any, row: Any, width: int
) -> Any:
    """Where the row of a token and head begins."""
    token = token_in(builder, row, group, width)
    head = builder.sub(row, builder.mul(token, spread(builder, group, width)))
    head_bytes = spread(builder, builder.shl(head_size, I32(2)), width)
    at = global_in(builder, q, builder.mul(head, head_bytes), width)
    stride = spread(builder, q_stride, width)
    return builder.add(at, builder.mul(resized(builder, token, "i64", width), stride))


def warp_rows(builder: Any, tile: Tile, width: int) -> Any:
    """The first row of each lane in its warp."""
    lane = lanes_in(builder, width)
    number, rows = constants(builder, lane), tile.rows
    return builder.mul(builder.udiv(lane, number(rows.lanes)), number(rows.near))


def block_rows(builder: Any, tile: Tile, warp: Any, width: int) -> list[Any]:
    """All rows of each lane in its block; ``warp`` is its warp's number, an i32."""
    first = warp_rows(builder, tile, width)
    before = spread(builder, builder.mul(warp, I32(tile.warp_rows)), width)
    first = builder.add(first, before)
    return [builder.add(first, each(first.type, i * tile.rows.far)) for i in range(tile.rows.count)]


def row_tokens(tile: Tile) -> Any:
    """Device function: the tokens of a lane's rows, of the tile's first the 0th.

    Rows that are not there have the last one's token.
    """
    rows = tile.rows

    @intrinsic
    def tokens(typingctx, group, first_row, num_rows, warp):
        lanes = lanes_of(typingctx, "i32")
        result = registers(lanes, rows.count)

        def codegen(ctx, b, sig, args):
            group, first_row, num_rows, warp = (b.trunc(value, I32) for value in args)
            last = spread(b, b.sub(num_rows, I32(1)), lanes.width)
            found = []
            for row in block_rows(b, tile, warp, lanes.width):
                row = b.select(b.icmp_signed("<", row, last), row, last)
                row = b.add(row, spread(b, first_row, lanes.width))
                found.append(token_in(b, row, group, lanes.width))
            return ctx.make_tuple(b, result, found)

        return result(*[types.int64] * 4), codegen

    return tokens


@intrinsic
def shifted(typingctx, numbers, distance):
    """Registers of i32 and a uniform number more."""

    def codegen(ctx, b, sig, args):
        width = numbers.dtype.width
        more = spread(b, b.trunc(args[1], I32), width)
        values = [b.add(b.extract_value(args[0], i), more) for i in range(numbers.count)]
        return ctx.make_tuple(b, sig.return_type, values)

    return numbers(numbers, types.int64), codegen


def cleared(count: int) -> Any:
    """Device function: registers of f32, each the same uniform number."""

    @intrinsic
    def numbers(typingctx, value):
        lanes = lanes_of(typingctx, "f32")
        result = registers(lanes, count)

        def codegen(ctx, b, sig, args):
            return ctx.make_tuple(b, result, [spread(b, args[0], lanes.width)] * count)

        return result(types.float32), codegen

    return numbers
