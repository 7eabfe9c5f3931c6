"""Compares 64 f32 at once and gives the results as the bits of one word.

The kernel that chooses tokens (``sampling``) uses these words to list what it keeps.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.layouts import SELECTION_GROUP as GROUP
from edgellama.kernels_cpu.simd.vectors import I64, SCALARS, Vector, constant, load_at, splat


@intrinsic
def f32_zeros_64(typingctx):
    """64 zeros, in as many registers as the tier needs."""
    return Vector("f32", GROUP)(), lambda ctx, b, sig, args: constant("f32", [0.0] * GROUP)


@intrinsic
def bits_at_least(typingctx, group, limit):
    """Bit i tells whether lane i of 64 is ``limit`` or more."""

    def codegen(ctx, b, sig, args):
        reached = b.fcmp_ordered(">=", args[0], splat(b, args[1], GROUP))
        return b.bitcast(reached, I64)

    return types.int64(group, types.float32), codegen


@intrinsic
def bits_not_numbers(typingctx, group):
    """Bit i tells whether lane i of 64 is not a number."""

    def codegen(ctx, b, sig, args):
        return b.bitcast(b.fcmp_unordered("uno", args[0], args[0]), I64)

    return types.int64(group), codegen


@intrinsic
def count_bits(typingctx, bits):
    """How many bits of a word are set."""

    def codegen(ctx, b, sig, args):
        return b.ctpop(args[0])

    return types.int64(types.int64), codegen


@intrinsic
def f32_of_bits(typingctx, bits):
    """The f32 whose bits are the low half of a word."""

    def codegen(ctx, b, sig, args):
        return b.bitcast(b.trunc(args[0], SCALARS["i32"]), SCALARS["f32"])

    return types.float32(types.int64), codegen


@intrinsic
def bits_of_f32(typingctx, value):
    """The bits of an f32 as a signed number."""

    def codegen(ctx, b, sig, args):
        return b.sext(b.bitcast(args[0], SCALARS["i32"]), I64)

    return types.int64(types.float32), codegen


@intrinsic
def read_f64(typingctx, address):
    """Load one f64."""
    return types.float64(types.int64), lambda ctx, b, sig, args: load_at(
        b, args[0], ir.DoubleType()
    )
