"""Weighted sums of a page's values, where each lane has some elements of some positions.

A unit is 4, 8 or 16 bytes of a value, and neighbouring lanes have neighbouring units. The lanes
that cover one value are a team; the size of a team is a power of two. Each team has some positions
in a row and the next team those that follow; the positions of all teams are a block. Adding up the
teams' sums is left to ``value_sums``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.cuda.decode_layout import keys_at_once, lane_keys
from edgellama.cuda.kernels.key_products import address_of
from edgellama.cuda.kernels.lanes import each, spread
from edgellama.cuda.kernels.memory import (
    GLOBAL,
    SHARED,
    load_lanes,
    load_words,
    store_lanes,
)
from edgellama.cuda.kernels.numbers import WORDS, fused, halves_of
from edgellama.cuda.kernels.row_registers import lanes_in, registers, values_in
from edgellama.cuda.layouts import CHUNK_BYTES, NIBBLE_DISTANCE, WARP
from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS
from edgellama.kernels_cpu.simd.vectors import I32, I64, tier_of

MAX_OUTPUTS = 64
"""Registers of a lane's sums, of all rows; more would leave too few warps on the card."""
BLOCK_WORDS = 16
"""Words of values that a lane loads before it multiplies them."""
WEIGHTS_AT_ONCE = 4
"""Positions whose weights are read at once."""


@dataclass(frozen=True)
class ValueUnit:
    """What a lane has of a value of a type, in a kernel of ``rows`` queries."""

    kind: str
    rows: int

    @property
    def num_bytes(self) -> int:
        """Of a unit, which is loaded at once: fewer where many rows need many sums."""
        elements = MAX_OUTPUTS // self.rows
        num_bytes = CHUNK_BYTES
        while num_bytes > 4 and num_bytes * 8 // CACHE_NUMBER_BITS[self.kind] > max(elements, 8):
            num_bytes //= 2
        return num_bytes

    @property
    def units(self) -> int:
        """Units of a value that a lane has: two of f32, so that 32 lanes have 256 elements."""
        return 2 if self.kind == "f32" else 1

    @property
    def words(self) -> int:
        """Words of a value that a lane has."""
        return self.units * self.num_bytes // 4

    @property
    def elements(self) -> int:
        """Elements of a value that a lane has."""
        return self.words * 32 // CACHE_NUMBER_BITS[self.kind]

    @property
    def positions(self) -> int:
        """Positions in a row whose values a lane loads before it multiplies them."""
        # Each position has a place and a scale besides, for which many rows leave no registers.
        return min(BLOCK_WORDS // self.words, 2 * lane_keys(self.rows))

    def element(self, number: int) -> tuple[int, int]:
        """Which unit of the lane a number of it is in, and how far behind the unit's first.

        Of q4_0, how far behind the element of the unit's first low nibble.
        """
        if self.kind == "f32":
            return number // 4, number % 4
        if self.kind == "q4_0":
            word, place = divmod(number, 8)
            return 0, 4 * word + place % 4 + NIBBLE_DISTANCE * (place // 4)
        return 0, number


def define_value_places(unit: ValueUnit) -> Callable[..., Any]:
    """Intrinsic ``(first, last)``: a lane's positions from i32 lanes ``first`` on, up to ``last``.

    Positions behind the last seen hold garbage, which may be NaN: the last one's stands for theirs.
    """

    @intrinsic
    def places(typingctx, first, last):
        result = registers(first, unit.positions)

        def codegen(ctx, b, sig, args):
            end = spread(b, b.trunc(args[1], I32), first.width)
            values = []
            for i in range(unit.positions):
                at = b.add(args[0], each(first.llvm, i))
                values.append(b.select(b.icmp_signed("<", at, end), at, end))
            return ctx.make_tuple(b, result, values)

        return result(first, types.int64), codegen

    return places


def define_load_value_words(unit: ValueUnit) -> Callable[..., Any]:
    """Intrinsic ``(address, places, row_bytes, units)``: words of all a lane's positions.

    ``units`` says, in i32 lanes, how far behind the begin of a value each unit lies.
    """

    @intrinsic
    def load(typingctx, address, places, row_bytes, units):
        lanes = places.dtype
        result = registers(lanes, places.count * unit.words)

        def codegen(ctx, b, sig, args):
            stride = spread(b, b.trunc(args[2], I32), lanes.width)
            words = []
            for position in values_in(b, args[1]):
                for behind in values_in(b, args[3]):
                    offset = b.add(b.mul(position, stride), behind)
                    at = address_of(b, args[0], offset, lanes.width)
                    words += load_words(b, at, unit.num_bytes // 4, GLOBAL, lanes.width)
            return ctx.make_tuple(b, result, words)

        return result(types.int64, places, types.int64, units), codegen

    return load


@intrinsic
def load_value_scales(typingctx, scales, places, groups, group):
    """The scale of each position for the group of a lane's elements, from shared memory.

    ``scales`` are the page's, ``groups`` for each position; ``group`` is i32 lanes.
    """
    lanes, tier = places.dtype, tier_of(typingctx)
    result = registers(lanes.of("f32"), places.count)

    def codegen(ctx, b, sig, args):
        stride = spread(b, b.trunc(args[2], I32), lanes.width)
        factors = []
        for position in values_in(b, args[1]):
            index = b.add(b.mul(position, stride), args[3])
            offset = b.mul(index, each(index.type, CACHE_SCALE_BYTES))
            at = address_of(b, args[0], offset, lanes.width)
            bits = load_lanes(b, at, "i16", SHARED, lanes.width)
            factors.append(halves_of(b, b.zext(bits, lanes.llvm), lanes.width, tier)[0])
        return ctx.make_tuple(b, result, factors)

    return result(types.int64, places, types.int64, group), codegen


def _weights(builder: Any, address: Any, first: int, unit: ValueUnit, lanes: Any) -> list[Any]:
    """For each row the weights of a lane's positions from ``first`` on, from shared memory."""
    rows, count = [], min(unit.positions, WEIGHTS_AT_ONCE)
    for row in range(unit.rows):
        behind = 4 * (row * keys_at_once(unit.rows) + first)
        at = builder.add(address, each(address.type, behind))
        words = load_words(builder, at, count, SHARED, lanes.width)
        rows.append([builder.bitcast(word, lanes.llvm) for word in words])
    return rows


def define_add_value_products(unit: ValueUnit) -> Callable[..., Any]:
    """Intrinsic ``(outputs, words, weights, scales)``: adds weights times values.

    ``weights`` is, in i64 lanes, the address of the first row's weight of a lane's first position.
    ``scales`` has a place for each position, or none.
    """
    numbers_of, rows = WORDS[unit.kind], unit.rows

    @intrinsic
    def add_products(typingctx, outputs, words, weights, scales):
        lanes, tier = outputs.dtype, tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            sums, bits = values_in(b, args[0]), values_in(b, args[1])
            factors = values_in(b, args[3]) if scales.count else []
            for position in range(unit.positions):
                place = position % WEIGHTS_AT_ONCE
                if place == 0:
                    weights = _weights(b, args[2], position, unit, lanes)
                own = bits[position * unit.words : (position + 1) * unit.words]
                values = [x for word in own for x in numbers_of(b, word, lanes.width, tier)]
                for row in range(rows):
                    weight = weights[row][place]
                    if factors:
                        weight = b.fmul(weight, factors[position])
                    for i, value in enumerate(values):
                        at = row * unit.elements + i
                        sums[at] = fused(b, value, weight, sums[at], tier)
            return ctx.make_tuple(b, outputs, sums)

        return outputs(outputs, words, weights, scales), codegen

    return add_products


@intrinsic
def store_weights(typingctx, weights, column, address):
    """Weights to shared memory, a row for each row of the column.

    A lane has the positions of its own number, and those 32 behind, and so on.
    """
    lanes, per_row = weights.dtype, weights.count // column.count

    def codegen(ctx, b, sig, args):
        lane = lanes_in(b, lanes.width)
        start = address_of(b, args[2], b.mul(lane, each(lane.type, 4)), lanes.width)
        for i, value in enumerate(values_in(b, args[0])):
            row, number = divmod(i, per_row)
            at = b.add(start, each(start.type, 4 * WARP * (row * per_row + number)))
            everywhere = each(lanes.of("mask").llvm, 1)
            store_lanes(b, at, value, everywhere, SHARED, lanes.width)
        return ctx.get_dummy_value()

    return types.void(weights, column, types.int64), codegen


def define_store_outputs(unit: ValueUnit) -> Callable[..., Any]:
    """Intrinsic ``(outputs, address, row_bytes, numbers, value_bytes, is_first_team)``.

    Sums to shared memory, a row for each query: of those units, ``numbers`` in i32 lanes, that a
    value of ``value_bytes`` has, from the lanes of the first team.
    """

    @intrinsic
    def store(typingctx, outputs, address, row_bytes, numbers, value_bytes, is_first_team):
        width, i32 = outputs.dtype.width, numbers.dtype.llvm

        def codegen(ctx, b, sig, args):
            end, firsts, written = spread(b, b.trunc(args[4], I32), width), [], []
            for number in values_in(b, args[3]):
                behind = b.mul(number, each(i32, unit.num_bytes))
                firsts.append(_first_element(b, unit.kind, behind))
                written.append(b.and_(b.icmp_signed("<", behind, end), args[5]))
            for at, value in enumerate(values_in(b, args[0])):
                row, number = divmod(at, unit.elements)
                which, further = unit.element(number)
                base = b.add(args[1], b.mul(args[2], I64(row)))
                offset = b.mul(b.add(firsts[which], each(i32, further)), each(i32, 4))
                where = address_of(b, base, offset, width)
                store_lanes(b, where, value, written[which], SHARED, width)
            return ctx.get_dummy_value()

        return types.void(
            outputs, types.int64, types.int64, numbers, types.int64, is_first_team
        ), codegen

    return store


def _first_element(builder: Any, kind: str, behind: Any) -> Any:
    """The element of the first number of a unit that begins ``behind`` bytes behind a value."""
    bits = CACHE_NUMBER_BITS[kind]
    if bits >= 8:
        return builder.lshr(behind, each(behind.type, (bits // 8).bit_length() - 1))
    inside = each(behind.type, CHUNK_BYTES - 1)
    chunks = builder.and_(behind, builder.not_(inside))
    return builder.add(builder.add(chunks, chunks), builder.and_(behind, inside))
