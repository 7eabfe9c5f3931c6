"""Steps of quantizing f32 vectors: choosing lanes, rounding, and storing as small integers.

Every operation here gives the same bits on every tier, whatever the width of the vector;
numbers that are not finite give some value and never undefined behaviour.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.halves import f32_to_half_bits, half_bits_to_f32
from edgellama.kernels_cpu.simd.vectors import (
    I8,
    I32,
    I64,
    Vector,
    call_llvm,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    tier_of,
)

F64 = ir.DoubleType()


@intrinsic
def f32_zeros_1(typingctx):
    """A single zero: the width at which the end of a row is handled."""
    return Vector("f32", 1)(), lambda ctx, b, sig, args: constant("f32", [0.0])


@intrinsic
def f32_zeros_32(typingctx):
    """32 zeros: one block, in as many registers as the tier needs."""
    return Vector("f32", 32)(), lambda ctx, b, sig, args: constant("f32", [0.0] * 32)


@intrinsic
def minimum(typingctx, x, y):
    """The smaller of each pair; ``y`` where ``x`` is not a number."""
    return x(x, y), lambda ctx, b, sig, args: b.select(b.fcmp_ordered("<", *args), *args)


@intrinsic
def where_greater(typingctx, x, y, chosen, other):
    """``chosen`` in the lanes where x > y, else ``other``."""

    def codegen(ctx, b, sig, args):
        return b.select(b.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return chosen(x, y, chosen, other), codegen


@intrinsic
def with_sign_of(typingctx, x, y):
    """The magnitude of every lane of ``x`` with the sign of ``y``'s."""
    return x(x, y), lambda ctx, b, sig, args: call_llvm(
        b, f"llvm.copysign.v{x.lanes}f32", args[0].type, list(args)
    )


@intrinsic
def square_roots(typingctx, x):
    """Correctly rounded square root of every lane."""
    return x(x), lambda ctx, b, sig, args: call_llvm(
        b, f"llvm.sqrt.v{x.lanes}f32", args[0].type, list(args)
    )


@intrinsic
def round_even(typingctx, x):
    """The nearest whole number, ties to even, as f32; exact below 2**22."""
    # Not the processor's own rounding, which the generic tier has to call from a library.
    magic = 12582912.0

    def codegen(ctx, b, sig, args):
        each = constant("f32", [magic] * x.lanes)
        return b.fsub(b.fadd(args[0], each), each)

    return x(x), codegen


@intrinsic
def truncate(typingctx, x):
    """Integer part as i32 lanes; the magnitude must be below 2**31 and a number."""

    def codegen(ctx, b, sig, args):
        return b.fptosi(args[0], llvm_vector("i32", x.lanes))

    return Vector("i32", x.lanes)(x), codegen


@intrinsic
def load_i32(typingctx, address, like):
    """Signed 32-bit integers, as many as ``like`` has lanes."""
    vector = Vector("i32", like.lanes)
    return vector(types.int64, like), lambda ctx, b, sig, args: load_at(
        b, args[0], llvm_vector("i32", like.lanes)
    )


def _define_low_store(kind: str) -> Any:
    @intrinsic
    def store_low(typingctx, address, integers):
        def codegen(ctx, b, sig, args):
            taken = b.trunc(args[1], llvm_vector(kind, integers.lanes))
            b.store(taken, pointer(b, args[0], taken.type), align=1)
            return ctx.get_dummy_value()

        return types.void(types.int64, integers), codegen

    return store_low


store_low_bytes, store_low_words = map(_define_low_store, ("i8", "i16"))
"""The low 8 or 16 bits of every i32 lane, one after the other."""


@intrinsic
def store_nibble_pairs(typingctx, address, integers):
    """The low nibbles of 32 i32 lanes as 16 bytes; the second half's above the first's."""

    def codegen(ctx, b, sig, args):
        nibbles = b.and_(
            b.trunc(args[1], llvm_vector("i8", integers.lanes)),
            constant("i8", [15] * integers.lanes),
        )
        half = integers.lanes // 2
        low = shuffle(b, nibbles, nibbles, range(half))
        high = shuffle(b, nibbles, nibbles, range(half, 2 * half))
        pairs = b.or_(low, b.shl(high, constant("i8", [4] * half)))
        b.store(pairs, pointer(b, args[0], pairs.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, integers), codegen


def _mask_bits(builder: Any, mask: Any) -> Any:
    """A vector of booleans as the bits of an i64, lane 0 lowest."""
    return builder.zext(builder.bitcast(mask, ir.IntType(mask.type.count)), I64)


@intrinsic
def bits_of_equal(typingctx, x, y):
    """Bit i tells whether lane i of x equals that of y."""

    def codegen(ctx, b, sig, args):
        return _mask_bits(b, b.fcmp_ordered("==", *args))

    return types.int64(x, y), codegen


@intrinsic
def bits_above_nibble(typingctx, integers):
    """Bit i tells whether lane i has bit 4, the first that does not fit a nibble."""

    def codegen(ctx, b, sig, args):
        fifth = b.and_(args[0], constant("i32", [16] * integers.lanes))
        return _mask_bits(b, b.icmp_unsigned("!=", fifth, constant("i32", [0] * integers.lanes)))

    return types.int64(integers), codegen


@intrinsic
def count_not_finite(typingctx, x):
    """How many lanes are infinite or not a number."""

    def codegen(ctx, b, sig, args):
        sizes = call_llvm(b, f"llvm.fabs.v{x.lanes}f32", args[0].type, [args[0]])
        infinity = constant("f32", [float("inf")] * x.lanes)
        bits = _mask_bits(b, b.fcmp_unordered(">=", sizes, infinity))
        return call_llvm(b, "llvm.ctpop.i64", I64, [bits])

    return types.int64(x), codegen


@intrinsic
def first_bit(typingctx, bits):
    """Number of the lowest bit that is set; 0 if none is."""

    def codegen(ctx, b, sig, args):
        never_poison = ir.Constant(ir.IntType(1), 0)
        found = call_llvm(b, "llvm.cttz.i64", I64, [args[0], never_poison])
        return b.and_(found, ir.Constant(I64, 63))

    return types.int64(types.int64), codegen


@intrinsic
def store_f16(typingctx, address, x):
    """Every lane as an IEEE half, rounded to nearest even; overflow becomes infinity."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        halves = f32_to_half_bits(b, args[1], tier)
        b.store(halves, pointer(b, args[0], halves.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, x), codegen


@intrinsic
def store_bf16(typingctx, address, x):
    """Every lane as a bfloat16, rounded to nearest even; NaN becomes quiet."""

    def codegen(ctx, b, sig, args):
        def each(value):
            return constant("i32", [value] * x.lanes)

        bits = b.bitcast(args[1], llvm_vector("i32", x.lanes))
        odd = b.and_(b.lshr(bits, each(16)), each(1))
        rounded = b.add(bits, b.add(odd, each(0x7FFF)))
        size = b.and_(bits, each(0x7FFFFFFF))
        is_nan = b.icmp_unsigned(">", size, each(0x7F800000))
        chosen = b.select(is_nan, b.or_(bits, each(0x00400000)), rounded)
        words = b.trunc(b.lshr(chosen, each(16)), llvm_vector("i16", x.lanes))
        b.store(words, pointer(b, args[0], words.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, x), codegen


@intrinsic
def rounded_to_half(typingctx, x):
    """Every lane as the f32 nearest to it that an IEEE half can hold."""
    tier = tier_of(typingctx)
    return x(x), lambda ctx, b, sig, args: half_bits_to_f32(
        b, f32_to_half_bits(b, args[0], tier), tier
    )


@intrinsic
def half_bits(typingctx, x):
    """Every lane as the bits of an IEEE half, in the low half of an i32 lane."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        return b.zext(f32_to_half_bits(b, args[0], tier), llvm_vector("i32", x.lanes))

    return Vector("i32", x.lanes)(x), codegen


def _define_integer_write(llvm_type: Any) -> Any:
    @intrinsic
    def write(typingctx, address, value):
        def codegen(ctx, b, sig, args):
            number = args[1] if llvm_type is I64 else b.trunc(args[1], llvm_type)
            b.store(number, pointer(b, args[0], llvm_type), align=1)
            return ctx.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return write


write_i8, write_i16, write_i32, write_i64 = map(
    _define_integer_write, (I8, ir.IntType(16), I32, I64)
)


@intrinsic
def write_f64(typingctx, address, value):
    """Store one f64."""

    def codegen(ctx, b, sig, args):
        b.store(args[1], pointer(b, args[0], F64), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.float64), codegen


def define_codebook(values: Sequence[int]) -> tuple[Any, Any]:
    """Functions that give the value nearest to each lane, as f32, and its number, as i32.

    The values ascend; the least is given for NaN.
    """
    limits = [(low + high) / 2 for low, high in itertools.pairwise(values)]

    def steps(builder: Any, x: Any, choices: Sequence[Any]) -> Any:
        chosen = choices[0]
        for limit, choice in zip(limits, choices[1:], strict=True):
            above = builder.fcmp_ordered(">", x, constant("f32", [limit] * x.type.count))
            chosen = builder.select(above, choice, chosen)
        return chosen

    @intrinsic
    def nearest_value(typingctx, x):
        choices = [constant("f32", [float(value)] * x.lanes) for value in values]
        return x(x), lambda ctx, b, sig, args: steps(b, args[0], choices)

    @intrinsic
    def nearest_number(typingctx, x):
        choices = [constant("i32", [number] * x.lanes) for number in range(len(values))]
        return Vector("i32", x.lanes)(x), lambda ctx, b, sig, args: steps(b, args[0], choices)

    return nearest_value, nearest_number
