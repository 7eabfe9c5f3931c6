"""Barriers for the compiler: values of which it does not know how they were made, and kept order.

Each stands where LLVM would make the code slower if it knew. None is an instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.vectors import tier_of

AVX_LANES = 8


def unknown(builder: Any, value: Any, registers: str = "=r,0") -> Any:
    """A number, or a vector, of which the compiler does not know how it was made."""
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", registers, [value], side_effect=False)


@intrinsic
def unknown_twice(typingctx, number):
    """Twice a number, which the compiler takes for a number of its own."""
    return number(number), lambda ctx, b, sig, args: unknown(b, b.add(args[0], args[0]))


def _define_hidden(is_wide: bool) -> Callable[..., Any]:
    @intrinsic
    def hidden(typingctx, count):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            # Moved signs and magnitudes need more registers than a loop has left beside the tile.
            return args[0] if is_wide and tier.dot4 == "pairs" else unknown(b, args[0])

        return types.int64(types.int64), codegen

    return hidden


HIDDEN = (_define_hidden(False), _define_hidden(True))
"""A number that the compiler does not know, so that it leaves a loop over it as it is.

Unrolled, the loads of all words come first, and the tile is spilled to make room for them. As all
such pairs here: for weights of up to seven bits, and for those that take eight.
"""


@intrinsic
def keep_order(typingctx):
    """Loads before this place stay before it, and those behind it stay behind it."""

    def codegen(ctx, b, sig, args):
        b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
        return ctx.get_dummy_value()

    return types.void(), codegen


def as_one(builder: Any, vector: Any, tier: Tier) -> Any:
    """A vector that is ``unknown`` on tiers with AVX's registers, where its pieces cost a third
    more than the whole."""
    if not tier.has_pair_dot or tier.lanes != AVX_LANES:
        return vector
    return unknown(builder, vector, "=x,0")


@intrinsic
def keep_whole(typingctx, v):
    """A vector that the compiler does not take apart, however few bytes of it are used."""
    tier = tier_of(typingctx)
    return v(v), lambda ctx, b, sig, args: as_one(b, args[0], tier)
