"""Arithmetic on f32 vectors: sums, products, the exponential, and reductions.

A reduction adds the lanes in a fixed order, so that its result does not depend on the compiler.
Operators such as ``+`` are in ``operators``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.vectors import (
    F32,
    I32,
    Vector,
    call_llvm,
    constant,
    llvm_vector,
    shuffle,
    splat,
    tier_of,
)


def multiply_add(builder: Any, x: Any, y: Any, z: Any, tier: Tier) -> Any:
    """x * y + z of f32 vectors, rounded once where the tier has the instruction."""
    if tier.has_fma:
        return call_llvm(builder, f"llvm.fma.v{x.type.count}f32", x.type, [x, y, z])
    return builder.fadd(builder.fmul(x, y), z)


def define_binary(method: str) -> Callable[..., Any]:
    @intrinsic
    def operation(typingctx, x, y):
        return x(x, y), lambda ctx, b, sig, args: getattr(b, method)(*args)

    return operation


add, sub, mul, div = map(define_binary, ("fadd", "fsub", "fmul", "fdiv"))


@intrinsic
def fma(typingctx, x, y, z):
    """x * y + z, rounded once where the tier has the instruction."""
    tier = tier_of(typingctx)
    return x(x, y, z), lambda ctx, b, sig, args: multiply_add(b, *args, tier)


@intrinsic
def maximum(typingctx, x, y):
    """The larger of each pair; ``y`` where ``x`` is not a number."""
    return x(x, y), lambda ctx, b, sig, args: b.select(b.fcmp_ordered(">", *args), *args)


@intrinsic
def magnitude(typingctx, x):
    """Absolute value."""

    def codegen(ctx, b, sig, args):
        return call_llvm(b, f"llvm.fabs.v{x.lanes}f32", args[0].type, list(args))

    return x(x), codegen


def round_to_integer(builder: Any, values: Any) -> Any:
    """f32 of magnitude below 2**22 as i32, rounded to nearest even on every tier alike."""
    lanes = values.type.count
    magic = builder.fadd(values, constant("f32", [12582912.0] * lanes))
    bits = builder.bitcast(magic, llvm_vector("i32", lanes))
    return builder.sub(bits, constant("i32", [0x4B400000] * lanes))


@intrinsic
def exponential(typingctx, x):
    """exp(x) to about 1e-7 relative; 0 below -87 (minus infinity included), finite above 88."""
    lanes, tier = x.lanes, tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        def each(value):
            return constant("f32", [value] * lanes)

        def fused(*operands):
            return multiply_add(b, *operands, tier)

        tiny = b.fcmp_ordered("<", args[0], each(-87.0))
        clamped = b.select(tiny, each(-87.0), args[0])
        clamped = b.select(b.fcmp_ordered(">", clamped, each(88.0)), each(88.0), clamped)
        power = round_to_integer(b, b.fmul(clamped, each(1.4426950408889634)))
        n = b.sitofp(power, args[0].type)
        rest = fused(n, each(-0.693359375), clamped)
        rest = fused(n, each(2.12194440e-4), rest)
        # Cephes expf: minimax polynomial on [-ln(2)/2, ln(2)/2].
        series = each(1.9875691500e-4)
        for coefficient in (
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            0.5,
        ):
            series = fused(series, rest, each(coefficient))
        value = b.fadd(fused(series, b.fmul(rest, rest), rest), each(1.0))
        exponent = b.shl(
            b.add(power, constant("i32", [127] * lanes)), constant("i32", [23] * lanes)
        )
        value = b.fmul(value, b.bitcast(exponent, args[0].type))
        return b.select(tiny, each(0.0), value)

    return x(x), codegen


@intrinsic
def mask_from(typingctx, x, count):
    """Minus infinity in lane ``count`` and all above."""

    def codegen(ctx, b, sig, args):
        limit = splat(b, b.trunc(args[1], I32), x.lanes)
        keep = b.icmp_signed("<", constant("i32", range(x.lanes)), limit)
        return b.select(keep, args[0], constant("f32", [float("-inf")] * x.lanes))

    return x(x, types.int64), codegen


@intrinsic
def swap_pairs(typingctx, v):
    """Lanes 1 0 3 2 …"""
    order = [i ^ 1 for i in range(v.lanes)]
    return v(v), lambda ctx, b, sig, args: shuffle(b, args[0], args[0], order)


@intrinsic
def fold(typingctx, v, like):
    """Sums of equal parts of ``v``, each as wide as ``like``, in a fixed order."""

    def codegen(ctx, b, sig, args):
        vector, width = args[0], v.lanes
        while width > like.lanes:
            width //= 2
            low = shuffle(b, vector, vector, range(width))
            high = shuffle(b, vector, vector, range(width, 2 * width))
            vector = b.fadd(low, high)
        return vector

    return Vector("f32", like.lanes)(v, like), codegen


def _define_reduction(combine: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    @intrinsic
    def reduce_lanes(typingctx, v):
        def codegen(ctx, b, sig, args):
            vector, width = args[0], v.lanes
            while width > 1:
                width //= 2
                low = shuffle(b, vector, vector, range(width))
                high = shuffle(b, vector, vector, range(width, 2 * width))
                vector = combine(b, low, high)
            return b.extract_element(vector, ir.Constant(I32, 0))

        return types.float32(v), codegen

    return reduce_lanes


sum_lanes = _define_reduction(lambda b, x, y: b.fadd(x, y))


max_lanes = _define_reduction(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


min_lanes = _define_reduction(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))


@intrinsic
def square_root(typingctx, x):
    """Correctly rounded square root."""
    return types.float32(types.float32), lambda ctx, b, sig, args: call_llvm(
        b, "llvm.sqrt.f32", F32, list(args)
    )
