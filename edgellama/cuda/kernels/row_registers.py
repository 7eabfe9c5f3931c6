"""Registers with some f32 lanes for each query row of a warp, as tuples in the order of the rows.

A tuple with exactly one place for each row is called a column here. Every place is a constant of
the compiled kernel, so that LLVM keeps the tuples in registers. What the numbers mean is left to
the callers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import Lanes, each, every_lane, lanes_of, spread
from edgellama.cuda.kernels.numbers import powers_of_two
from edgellama.cuda.kernels.warp import call_nvvm, exchanged, larger_of, reduced
from edgellama.cuda.layouts import WARP
from edgellama.kernels_cpu.simd.vectors import I32, tier_of


def registers(lanes: Lanes, count: int) -> types.UniTuple:
    """The type of ``count`` registers of each lane."""
    return types.UniTuple(lanes, count)


def values_in(builder: Any, value: Any) -> list[Any]:
    """The LLVM values of registers."""
    return [builder.extract_value(value, i) for i in range(value.type.count)]


def lanes_in(builder: Any, width: int) -> Any:
    """The LLVM value of ``lanes.lane_number``."""
    if width > 1:
        return every_lane(width, list(range(width)))
    thread = call_nvvm(builder, "llvm.nvvm.read.ptx.sreg.tid.x", I32, [])
    return builder.and_(thread, I32(WARP - 1))


@intrinsic(prefer_literal=True)
def f32_registers(typingctx, count, value):
    """A literal number of registers, all with one uniform f32."""
    number = getattr(count, "literal_value", None)
    if number is None:
        return None
    lanes = lanes_of(typingctx, "f32")
    result = registers(lanes, number)

    def codegen(ctx, b, sig, args):
        start = ctx.cast(b, args[1], sig.args[1], types.float32)
        return ctx.make_tuple(b, result, [spread(b, start, lanes.width)] * number)

    return result(count, value), codegen


def _define_by_rows(change: Callable[..., Any]) -> Callable[..., Any]:
    """Changes each place by that of its row in a column."""

    @intrinsic
    def operation(typingctx, places, column):
        tier, per_row = tier_of(typingctx), places.count // column.count

        def codegen(ctx, b, sig, args):
            rows, values = values_in(b, args[1]), values_in(b, args[0])
            changed = [change(b, x, rows[i // per_row], tier) for i, x in enumerate(values)]
            return ctx.make_tuple(b, places, changed)

        return places(places, column), codegen

    return operation


scaled_rows = _define_by_rows(lambda b, x, factor, tier: b.fmul(x, factor))
"""Each row's places times that of the column."""
added_rows = _define_by_rows(lambda b, x, y, tier: b.fadd(x, y))
"""Each row's places plus that of the column."""
powers_below = _define_by_rows(lambda b, x, top, tier: powers_of_two(b, b.fsub(x, top), tier))
"""2**(x - top), with the top of each row in the column."""


@intrinsic
def hide_positions(typingctx, scores, column, first, end):
    """Minus infinity but from position ``first`` to ``end``.

    Lane l holds the positions l, 32 + l, 64 + l … of each row; the column tells how many rows.
    """
    lanes, per_row = scores.dtype, scores.count // column.count

    def codegen(ctx, b, sig, args):
        start, stop = (spread(b, b.trunc(x, I32), lanes.width) for x in args[2:])
        lane, values = lanes_in(b, lanes.width), values_in(b, args[0])
        for i in range(per_row):
            place = b.add(lane, each(lane.type, WARP * i))
            seen = b.and_(b.icmp_signed(">=", place, start), b.icmp_signed("<", place, stop))
            for at in range(i, scores.count, per_row):
                values[at] = b.select(seen, values[at], each(lanes.llvm, float("-inf")))
        return ctx.make_tuple(b, scores, values)

    return scores(scores, column, types.int64, types.int64), codegen


@intrinsic
def largest_of_rows(typingctx, scores, before):
    """The largest number of each row in all lanes, and of a column before; alike in all lanes."""
    width, per_row = scores.dtype.width, scores.count // before.count

    def codegen(ctx, b, sig, args):
        values, largest = values_in(b, args[0]), values_in(b, args[1])
        for row, known in enumerate(largest):
            own, *others = values[row * per_row : (row + 1) * per_row]
            for other in others:
                own = larger_of(b, own, other)
            largest[row] = larger_of(b, reduced(b, own, larger_of, width), known)
        return ctx.make_tuple(b, before, largest)

    return before(scores, before), codegen


@intrinsic
def sums_of_rows(typingctx, places, column):
    """A column plus the places of each row; each lane for itself."""
    per_row = places.count // column.count

    def codegen(ctx, b, sig, args):
        sums = values_in(b, args[1])
        for i, value in enumerate(values_in(b, args[0])):
            sums[i // per_row] = b.fadd(sums[i // per_row], value)
        return ctx.make_tuple(b, column, sums)

    return column(places, column), codegen


@intrinsic(prefer_literal=True)
def sums_of_lanes(typingctx, places, smallest):
    """Each place summed over the lanes whose numbers differ from a literal bit ``smallest`` on."""
    bit = getattr(smallest, "literal_value", None)
    if bit is None:
        return None

    def codegen(ctx, b, sig, args):
        width = places.dtype.width
        sums = [
            reduced(b, x, lambda b, x, y: b.fadd(x, y), width, bit) for x in values_in(b, args[0])
        ]
        return ctx.make_tuple(b, places, sums)

    return places(places, smallest), codegen


@intrinsic(prefer_literal=True)
def add_lanes_at(typingctx, places, distance):
    """Each place plus that of the lane whose number differs in a literal ``distance``."""
    bit = getattr(distance, "literal_value", None)
    if bit is None:
        return None

    def codegen(ctx, b, sig, args):
        width = places.dtype.width
        sums = [b.fadd(x, exchanged(b, x, bit, width)) for x in values_in(b, args[0])]
        return ctx.make_tuple(b, places, sums)

    return places(places, distance), codegen
