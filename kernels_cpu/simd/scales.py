"""Small integer scales of super-blocks: copies each byte to the lanes of the weights it scales.

The bytes come as a vector that repeats the same 16 bytes, so that one shuffle within each piece of
16 moves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.layouts import HALVES
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.vectors import (
    I8,
    I32,
    Vector,
    constant,
    llvm_vector,
    load_at,
    shuffle,
    splat,
    tier_of,
)
from edgellama.kernels_cpu.simd.whole_registers import multiply_words, pack_words, shuffle_in_pieces

BYTE_UNIT = 2.0**-24
"""What a byte counts that stands at the top of a 32-bit lane; that makes it signed for nothing."""
UNSIGNED_UNIT = 2.0**-16
"""What a byte counts that stands below a zero at the top of a 32-bit lane, and stays unsigned."""
PAIR_UNIT = 2.0**-8
"""What a byte counts that stands at the top of a 16-bit lane."""
ZERO = -128
"""In place of a byte's number: a zero."""


def _take_bytes(builder: Any, pieces: Any, places: Any, numbers: Sequence[int], tier: Tier) -> Any:
    """The bytes at ``places``; where there is no shuffle, one by one unless the number is ZERO."""
    if tier.has_byte_shuffle:
        return shuffle_in_pieces(builder, pieces, places, tier)
    result = constant("i8", [0] * len(numbers))
    for lane, number in enumerate(numbers):
        if number != ZERO:
            place = builder.extract_element(places, I32(lane))
            byte = builder.extract_element(pieces, builder.zext(place, I32))
            result = builder.insert_element(result, byte, I32(lane))
    return result


def _define_widen(*, is_signed: bool) -> Callable[..., Any]:
    """An intrinsic: bytes as f32 in BYTE_UNIT or UNSIGNED_UNIT, four lanes for each."""

    @intrinsic(prefer_literal=True)
    def widen(typingctx, pieces, position, step, like):
        stride, tier = getattr(step, "literal_value", None), tier_of(typingctx)
        if stride is None:
            return None

        def codegen(ctx, b, sig, args):
            numbers = []
            for lane in range(like.lanes):
                number = lane // 4 * stride
                numbers += [ZERO, ZERO, ZERO, number] if is_signed else [ZERO, ZERO, number, ZERO]
            # A place stays negative, which makes a zero, whatever is added to ZERO.
            start = splat(b, b.trunc(args[1], I8), len(numbers))
            places = b.add(constant("i8", numbers), start)
            taken = _take_bytes(b, args[0], places, numbers, tier)
            integers = b.bitcast(taken, llvm_vector("i32", like.lanes))
            return b.sitofp(integers, llvm_vector("f32", like.lanes))

        return Vector("f32", like.lanes)(pieces, types.int64, step, like), codegen

    return widen


widen_signed = _define_widen(is_signed=True)
"""Bytes ``position``, ``position + step``, … as f32 in BYTE_UNIT, four lanes for each."""
widen_unsigned = _define_widen(is_signed=False)
"""The same in UNSIGNED_UNIT."""


def define_spread_pairs(order: Sequence[int], group_places: Sequence[int]) -> Callable[..., Any]:
    """An intrinsic that gives the scales which ``dot_pairs`` takes, as bytes / PAIR_UNIT.

    ``group_places``: the byte of each group of weights that share a scale; ``order`` is that of
    the blocks. From half ``first`` of that order on, there are as many half blocks as fit into two
    vectors like ``like``.
    """
    halves_each = HALVES // len(group_places)

    @intrinsic
    def spread_pairs(typingctx, pieces, first, like):
        tier, width = tier_of(typingctx), like.lanes // 4
        count = 2 * like.lanes

        def numbers_from(start: int) -> list[int]:
            numbers = []
            for lane in range(count):
                place = start + lane // 8 + lane % 8 // 4 * width
                half = 2 * order[place // 2] + place % 2
                numbers += [ZERO, group_places[half // halves_each]]
            return numbers

        def codegen(ctx, b, sig, args):
            places = constant("i8", numbers_from(0))
            for start in range(2 * width, HALVES, 2 * width):
                is_here = b.icmp_unsigned("==", args[1], args[1].type(start))
                places = b.select(is_here, constant("i8", numbers_from(start)), places)
            taken = _take_bytes(b, args[0], places, numbers_from(0), tier)
            return b.bitcast(taken, llvm_vector("i16", count))

        return Vector("i16", count)(pieces, types.int64, like), codegen

    return spread_pairs


def define_words_of_halves(group_places: Sequence[int]) -> Callable[..., Any]:
    """An intrinsic: unsigned bytes in 16 bits for each half block, of the groups' places."""
    halves_each = HALVES // len(group_places)
    places = [group_places[half // halves_each] for half in range(HALVES)]
    numbers = [n for place in places for n in (place, ZERO)]

    @intrinsic
    def words_of_halves(typingctx, pieces):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            if places == list(range(HALVES)):
                return b.zext(shuffle(b, args[0], args[0], places), llvm_vector("i16", HALVES))
            taken = _take_bytes(b, args[0], constant("i8", numbers), numbers, tier)
            return b.bitcast(taken, llvm_vector("i16", HALVES))

        return Vector("i16", HALVES)(pieces), codegen

    return words_of_halves


@intrinsic
def splat_by_source(typingctx, low, high, like):
    """Of every four lanes as ``dot_pairs`` gives them: one number for those from each source."""

    def codegen(ctx, b, sig, args):
        order = [i % 4 // 2 * like.lanes for i in range(like.lanes)]
        return shuffle(b, *(splat(b, value, like.lanes) for value in args[:2]), order)

    return Vector("f32", like.lanes)(types.float32, types.float32, like), codegen


@intrinsic
def sums_by_source(typingctx, total):
    """Of four lanes as ``dot_pairs`` gives them: the sum from each source."""

    def codegen(ctx, b, sig, args):
        lanes = [b.extract_element(args[0], I32(i)) for i in range(4)]
        sums = b.fadd(lanes[0], lanes[1]), b.fadd(lanes[2], lanes[3])
        return ctx.make_tuple(b, sig.return_type, sums)

    return types.UniTuple(types.float32, 2)(total), codegen


@intrinsic
def pairs_of_ones(typingctx, like):
    """i16 ones, as many as ``dot_pairs`` takes of scales."""
    count = 2 * like.lanes
    return Vector("i16", count)(like), lambda ctx, b, sig, args: constant("i16", [1] * count)


@intrinsic
def pack_pairs(typingctx, low, high):
    """Lanes of two vectors in 16 bits, which must hold them: four of each in turn."""
    tier, lanes = tier_of(typingctx), low.lanes
    packed = Vector("i16", 2 * lanes)

    def codegen(ctx, b, sig, args):
        narrow = llvm_vector("i16", 2 * lanes)
        if tier.has_pair_dot:
            return pack_words(b, *args, tier)
        order = [
            source + 4 * block + lane
            for block in range(lanes // 4)
            for source in (0, lanes)
            for lane in range(4)
        ]
        return b.trunc(shuffle(b, *args, order), narrow)

    return packed(low, high), codegen


@intrinsic
def add_words(typingctx, packed, address):
    """What ``pack_pairs`` gave plus the 16-bit integers at an address."""

    def codegen(ctx, b, sig, args):
        return b.add(args[0], load_at(b, args[1], args[0].type))

    return packed(packed, types.int64), codegen


@intrinsic
def load_words(typingctx, address, like):
    """16-bit integers, two for every lane of ``like``."""
    words = Vector("i16", 2 * like.lanes)
    return words(types.int64, like), lambda ctx, b, sig, args: load_at(
        b, args[0], llvm_vector("i16", 2 * like.lanes)
    )


@intrinsic
def dot_pairs(typingctx, packed, scales):
    """Products of 16-bit integers, those of neighbours added.

    Of what ``pack_pairs`` gave two lanes of every four are from the first vector, then two from
    the second.
    """
    tier, lanes = tier_of(typingctx), packed.lanes // 2

    def codegen(ctx, b, sig, args):
        wide = llvm_vector("i32", lanes)
        if tier.has_pair_dot:
            return multiply_words(b, *args, tier)
        products = [
            b.mul(*(b.sext(shuffle(b, v, v, range(n, 2 * lanes, 2)), wide) for v in args))
            for n in (0, 1)
        ]
        return b.add(*products)

    return Vector("i32", lanes)(packed, scales), codegen


@intrinsic
def add_of_rows(typingctx, first, second, starts):
    """32-bit products of two vectors added in pairs, and left as ``dot_pairs`` leaves them."""

    def codegen(ctx, b, sig, args):
        kept = [i % 4 // 2 * first.lanes + i for i in range(first.lanes)]
        return b.add(*(shuffle(b, *args[:2], order) for order in (kept, [i ^ 2 for i in kept])))

    return first(first, second, starts), codegen
