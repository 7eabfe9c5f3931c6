"""What integer products of a token start at, which subtracts a format's ``centre`` from weights.

If an instruction adds products to a sum, the sum begins with this number. If sums begin at zero,
the products of two rows are packed first, and the numbers of both rows are added once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.layouts import START_UNIT
from edgellama.kernels_cpu.simd.dot_tiles import has_sums_of_pairs
from edgellama.kernels_cpu.simd.vectors import (
    I32,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    tier_of,
)
from edgellama.kernels_cpu.simd.weight_bytes import sums_start_at_zero
from edgellama.kernels_cpu.simd.whole_registers import pack_words


@intrinsic
def store_starts_of_record(typingctx, address, words):
    """What products of a block start at, for a centre of START_UNIT.

    ``words``: the sums of the eight activations that a lane is multiplied with. They are left as
    integers of every lane, or as ``pack_pairs`` leaves two rows.
    """
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        starts = b.mul(args[1], constant("i32", [-START_UNIT] * words.lanes))
        if sums_start_at_zero(tier):
            starts = pack_words(b, starts, starts, tier)
        b.store(starts, pointer(b, args[0], starts.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, words), codegen


def define_take_off_centre(centre: int) -> Callable[..., Any]:
    """An intrinsic: packed products of two rows less ``centre`` for every weight.

    Nothing where they started at it; ``address`` is that of the record's starts.
    """

    @intrinsic
    def take_off_centre(typingctx, packed, address):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            total = args[0]
            for _ in range(centre // START_UNIT if sums_start_at_zero(tier) else 0):
                total = b.add(total, load_at(b, args[1], total.type))
            return total

        return packed(packed, types.int64), codegen

    return take_off_centre


def _sums_of_places(builder: Any, quants: Any) -> Any:
    """Of 16 signed bytes, the sums of those at each place of a word."""
    value = builder.sext(quants, llvm_vector("i16", 16))
    for width in (8, 4):
        value = builder.add(
            shuffle(builder, value, value, range(width)),
            shuffle(builder, value, value, range(width, 2 * width)),
        )
    return value


@intrinsic
def store_starts(typingctx, low, high, low_total, high_total, block_at, low_at, high_at):
    """What sums of products with a block's halves of 16 bytes start at, for a centre of one.

    A word each for the whole block and its halves: the sum of the bytes, ``total`` as f32, negated;
    or two sums of 16 bits, as the tier adds up.
    """
    in_pairs = has_sums_of_pairs(tier_of(typingctx), is_wide=False)

    def codegen(ctx, b, sig, args):
        if in_pairs:
            halves = [_pairs_of_places(b, quants) for quants in args[:2]]
        else:
            halves = [b.fptosi(b.fneg(total), I32) for total in args[2:4]]
        for at, word in zip(args[4:], (b.add(*halves), *halves), strict=True):
            b.store(word, pointer(b, at, word.type), align=1)
        return ctx.get_dummy_value()

    return types.void(low, high, low_total, high_total, *[types.int64] * 3), codegen


def _pairs_of_places(builder: Any, quants: Any) -> Any:
    """The sums at the first two and at the last two places of words, negated."""
    negated = builder.sub(constant("i16", [0] * 4), _sums_of_places(builder, quants))
    even, odd = (shuffle(builder, negated, negated, places) for places in ((0, 2), (1, 3)))
    return builder.add(even, odd)
