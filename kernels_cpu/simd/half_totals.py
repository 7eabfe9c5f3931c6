"""Adds up the products of a super-block in 16 bits before they are scaled. For x86 only.

Each step makes one vector of two: it adds half of the numbers of both to the other half, and leaves
the sums in the order that the next step needs. With quants of three bits the 16 products of a half
block fit 16 bits, with larger ones fewer. In the end one vector is converted and scaled for many
products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.layouts import HALVES
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.scales import ZERO
from edgellama.kernels_cpu.simd.vectors import (
    Vector,
    constant,
    llvm_vector,
    shuffle,
    tier_of,
)
from edgellama.kernels_cpu.simd.weight_bytes import (
    dot4_into,
)
from edgellama.kernels_cpu.simd.whole_registers import (
    multiply_bytes,
    multiply_words,
    pack_words,
    shuffle_in_pieces,
)

SECOND_UP = 4
"""How many bits the second quant of a byte lies above the first."""
PIECE_WORDS = 8
"""Numbers of 16 bits in 16 bytes."""


def adds_up_halves(tier: Tier) -> bool:
    """Whether half blocks are added up before they are scaled."""
    return tier.has_pair_dot and tier.lanes == 8


def define_look_up_nibbles(table: Sequence[int]) -> Callable[..., Any]:
    """An intrinsic from bytes below 16 to those of a table."""

    @intrinsic
    def look_up(typingctx, v):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            pieces = constant("i8", list(table) * (v.lanes // len(table)))
            return shuffle_in_pieces(b, pieces, args[0], tier)

        return v(v), codegen

    return look_up


@intrinsic
def dots_beside(typingctx, first, first_x, second, second_x):
    """Four products of the first quants in the lower, of the second in the upper half of a lane.

    The second quants lie ``SECOND_UP`` bits up in their bytes.
    """
    tier, lanes = tier_of(typingctx), first.lanes // 4
    result = Vector("i16", 2 * lanes)

    def codegen(ctx, b, sig, args):
        words, zeros = llvm_vector("i16", 2 * lanes), constant("i32", [0] * lanes)
        up = 16 - SECOND_UP
        if tier.dot4 == "pairs":
            pairs = [multiply_bytes(b, *args[i : i + 2], tier) for i in (0, 2)]
            low, high = (
                multiply_words(b, pair, constant("i16", [unit] * 2 * lanes), tier)
                for pair, unit in zip(pairs, (1, 1 << up), strict=True)
            )
        else:
            low, high = (dot4_into(b, zeros, *args[i : i + 2], tier) for i in (0, 2))
            high = b.shl(high, constant("i32", [up] * lanes))
        order = [i % 2 * 2 * lanes + i for i in range(2 * lanes)]
        return shuffle(b, b.bitcast(low, words), b.bitcast(high, words), order)

    return result(first, first_x, second, second_x), codegen


def _alternating(count: int, from_half: int) -> list[int]:
    """Numbers of half a piece each of two vectors of ``count``, in turn."""
    starts = range(from_half * PIECE_WORDS // 2, count, PIECE_WORDS)
    return [s + i + v for s in starts for i in range(PIECE_WORDS // 2) for v in (0, count)]


def _sum_of(builder: Any, first: Any, second: Any, orders: Iterable[Sequence[int]]) -> Any:
    """The numbers of two vectors in one order plus those in another."""
    return builder.add(*(shuffle(builder, first, second, order) for order in orders))


@intrinsic
def add_alternating(typingctx, first, second):
    """Numbers of both in turn: those of the first half of a piece plus those of the second."""

    def codegen(ctx, b, sig, args):
        return _sum_of(b, *args, [_alternating(first.lanes, half) for half in (0, 1)])

    return first(first, second), codegen


@intrinsic
def add_halves_alternating(typingctx, first, second):
    """The same of the vectors' first halves and of their second halves, instead of each vector.

    So the lower half of a vector stands in turn with its upper half.
    """

    def codegen(ctx, b, sig, args):
        count = first.lanes
        halves = [range(start, start + count // 2) for start in (0, count // 2)]
        lower, upper = (
            shuffle(b, *args, [*half, *(count + i for i in half)]) for half in halves
        )  # fmt: skip
        return _sum_of(b, lower, upper, [_alternating(count, half) for half in (0, 1)])

    return first(first, second), codegen


@intrinsic
def signed_words(typingctx, pieces):
    """The first piece's bytes in 16 bits each."""
    wide = Vector("i16", 2 * PIECE_WORDS)

    def codegen(ctx, b, sig, args):
        piece = shuffle(b, args[0], args[0], range(2 * PIECE_WORDS))
        return b.sext(piece, llvm_vector("i16", wide.lanes))

    return wide(pieces), codegen


@intrinsic
def products_beside(typingctx, first, first_x, second, second_x):
    """Four products of the first quants, and four of the second, in each half of a piece.

    Eight of them must fit 16 bits.
    """
    tier, lanes = tier_of(typingctx), first.lanes // 4
    result = Vector("i16", 2 * lanes)

    def codegen(ctx, b, sig, args):
        pairs = args[:2], args[2:]
        if tier.dot4 != "pairs":
            zeros = constant("i32", [0] * lanes)
            sums = [dot4_into(b, zeros, *pair, tier) for pair in pairs]
            return pack_words(b, *sums, tier)
        products = [multiply_bytes(b, *pair, tier) for pair in pairs]
        kept = [i % PIECE_WORDS // 4 * 2 * lanes + i for i in range(2 * lanes)]
        moved = [i ^ 4 for i in kept]
        return _sum_of(b, *products, [kept, moved])

    return result(first, first_x, second, second_x), codegen


@intrinsic
def add_neighbours(typingctx, first, second):
    """In each piece, neighbouring pairs of the first's words added, then those of the second's."""

    def codegen(ctx, b, sig, args):
        count = first.lanes
        evens = [
            start + v + 4 * pair + i
            for start in range(0, count, PIECE_WORDS)
            for v in (0, count)
            for pair in (0, 1)
            for i in (0, 1)
        ]
        return _sum_of(b, *args, [evens, [place + 2 for place in evens]])

    return first(first, second), codegen


def define_spread_to_lanes(order: Sequence[int], group_places: Sequence[int]) -> Callable[..., Any]:
    """An intrinsic that gives the scales of what ``add_neighbours`` gave, as bytes / PAIR_UNIT.

    A lane holds products of one half block: of every piece, four blocks in ``order`` from that
    of half ``first`` on. ``group_places``: the byte of each group of weights that share a scale.
    """

    @intrinsic
    def spread(typingctx, pieces, first):
        tier, count = tier_of(typingctx), pieces.lanes // 2

        def numbers_from(start: int) -> list[int]:
            halves = [
                2 * order[start // 2 + word % PIECE_WORDS // 2] + word // PIECE_WORDS % 2
                for word in range(count)
            ]
            places = [group_places[half * len(group_places) // HALVES] for half in halves]
            return [n for place in places for n in (ZERO, place)]

        def codegen(ctx, b, sig, args):
            is_first = b.icmp_unsigned("==", args[1], args[1].type(0))
            places = (constant("i8", numbers_from(start)) for start in (0, HALVES // 2))
            taken = shuffle_in_pieces(b, args[0], b.select(is_first, *places), tier)
            return b.bitcast(taken, llvm_vector("i16", count))

        return Vector("i16", count)(pieces, types.int64), codegen

    return spread
