"""The start of integer products of a token's record, which subtracts a format's ``centre``.

If an instruction adds products to a sum, the sum begins with this number. If sums begin at zero,
the products of two rows are packed first, and the numbers of both rows are added once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.layouts import START_UNIT
from edgellama.kernels_cpu.simd.vectors import (
    constant,
    load_at,
    pointer,
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
