"""Converts IEEE halves and bfloat16 to f32 and back, exactly the same on every tier.

Rounding is to nearest even.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.compiler_barriers import as_one
from edgellama.kernels_cpu.simd.vectors import (
    F32,
    I16,
    I32,
    Vector,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    splat,
    tier_of,
)


def half_bits_to_f32(builder: Any, bits: Any, tier: Tier) -> Any:
    """A vector of IEEE half bit patterns (i16) as f32, exactly, subnormals and NaN included."""
    lanes = bits.type.count
    if tier.has_f16_conversion:
        return builder.fpext(
            builder.bitcast(bits, llvm_vector("f16", lanes)), llvm_vector("f32", lanes)
        )
    wide = builder.zext(bits, llvm_vector("i32", lanes))

    def each(value: int) -> ir.Constant:
        return constant("i32", [value] * lanes)

    sign = builder.shl(builder.and_(wide, each(0x8000)), each(16))
    magnitude = builder.shl(builder.and_(wide, each(0x7FFF)), each(13))
    # Scaling by 2**112 moves the exponent from half's bias to single's, subnormals included.
    scaled = builder.fmul(
        builder.bitcast(magnitude, llvm_vector("f32", lanes)), constant("f32", [2.0**112] * lanes)
    )
    special = builder.icmp_unsigned(">=", magnitude, each(0x7C00 << 13))
    filled = builder.or_(magnitude, each(0x7F800000))
    value = builder.select(special, filled, builder.bitcast(scaled, llvm_vector("i32", lanes)))
    return builder.bitcast(builder.or_(value, sign), llvm_vector("f32", lanes))


def f32_to_half_bits(builder: Any, values: Any, tier: Tier) -> Any:
    """f32 as IEEE half bit patterns (i16), rounded to nearest even; overflow becomes infinity."""
    lanes = values.type.count
    if tier.has_f16_conversion:
        return builder.bitcast(
            builder.fptrunc(values, llvm_vector("f16", lanes)), llvm_vector("i16", lanes)
        )

    def each(value: int) -> ir.Constant:
        return constant("i32", [value] * lanes)

    bits = builder.bitcast(values, llvm_vector("i32", lanes))
    magnitude = builder.and_(bits, each(0x7FFFFFFF))
    sign = builder.lshr(builder.and_(bits, each(-0x80000000)), each(16))
    odd = builder.and_(builder.lshr(magnitude, each(13)), each(1))
    normal = builder.lshr(
        builder.add(magnitude, builder.add(odd, each(0xFFF - (112 << 23)))), each(13)
    )
    # Adding 0.5 leaves a subnormal half's bits, correctly rounded, at the foot of the mantissa.
    shifted = builder.fadd(
        builder.bitcast(magnitude, llvm_vector("f32", lanes)), constant("f32", [0.5] * lanes)
    )
    subnormal = builder.sub(builder.bitcast(shifted, llvm_vector("i32", lanes)), each(0x3F000000))
    value = builder.select(
        builder.icmp_unsigned("<", magnitude, each(113 << 23)), subnormal, normal
    )
    too_large = builder.icmp_unsigned(">=", magnitude, each(0x477FF000))
    value = builder.select(too_large, each(0x7C00), value)
    not_a_number = builder.icmp_unsigned(">", magnitude, each(0x7F800000))
    value = builder.select(not_a_number, each(0x7E00), value)
    return builder.trunc(builder.or_(value, sign), llvm_vector("i16", lanes))


def float_vector_at(builder: Any, kind: str, address: Any, lanes: int, tier: Tier) -> Any:
    """``lanes`` stored numbers of kind f32, f16 or bf16 as f32."""
    if kind == "f32":
        return load_at(builder, address, llvm_vector("f32", lanes))
    bits = load_at(builder, address, llvm_vector("i16", lanes))
    if kind == "f16":
        return half_bits_to_f32(builder, bits, tier)
    wide = builder.shl(builder.zext(bits, llvm_vector("i32", lanes)), constant("i32", [16] * lanes))
    return builder.bitcast(wide, llvm_vector("f32", lanes))


def _define_float_load(kind: str) -> Callable[..., Any]:
    @intrinsic
    def load(typingctx, address, like):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            return float_vector_at(b, kind, args[0], like.lanes, tier)

        return Vector("f32", like.lanes)(types.int64, like), codegen

    return load


load_f16, load_bf16 = _define_float_load("f16"), _define_float_load("bf16")


@intrinsic(prefer_literal=True)
def load_half_scales(typingctx, address, stride, like):
    """One half from each of ``address``, ``address + stride``, …, each as f32 in four lanes."""
    tier, count = tier_of(typingctx), like.lanes // 4
    step = getattr(stride, "literal_value", None)
    if step is None:
        return None
    # One wide load reaches all scales when they lie within it and it stays inside the blocks.
    window = 2 * like.lanes * 2
    one_load = count > 1 and (count - 1) * step + 2 <= window <= count * step and step % 2 == 0

    def codegen(ctx, b, sig, args):
        if one_load:
            halves = load_at(b, args[0], llvm_vector("i16", window // 2))
            order = [i * step // 2 for i in range(count) for _ in range(4)]
        else:
            # What stands behind the first half comes along for nothing.
            halves = b.bitcast(load_at(b, args[0], I32), llvm_vector("i16", 2))
            if count > 2:
                halves = shuffle(b, halves, halves, [0, 1] + [0] * (count - 2))
            for i in range(1, count):
                half = load_at(b, args[0], I16, i * step)
                halves = b.insert_element(halves, half, ir.Constant(I32, i))
            order = [i for i in range(count) for _ in range(4)]
        return half_bits_to_f32(b, shuffle(b, halves, halves, order), tier)

    return Vector("f32", like.lanes)(types.int64, stride, like), codegen


@intrinsic(prefer_literal=True)
def halves_of_pieces(typingctx, pieces, index):
    """Half number ``index`` of each 16-byte piece as f32, in four lanes."""
    tier, number = tier_of(typingctx), getattr(index, "literal_value", None)
    if number is None:
        return None
    lanes = pieces.lanes // 4

    def codegen(ctx, b, sig, args):
        halves = b.bitcast(args[0], llvm_vector("i16", 2 * lanes))
        order = [8 * (i // 4) + number for i in range(lanes)]
        return half_bits_to_f32(b, shuffle(b, halves, halves, order), tier)

    return Vector("f32", lanes)(pieces, index), codegen


def _define_halves_of_rows(num_kinds: int) -> Callable[..., Any]:
    """An intrinsic: halves of a block each of two rows as f32, and as many behind them.

    They are number 0, ``step``, … of either row. Of every four lanes two are for a block of the
    first row, then two for one of the next.
    """

    @intrinsic(prefer_literal=True)
    def halves_of_rows(typingctx, row, next_row, step, like):
        tier, stride = tier_of(typingctx), getattr(step, "literal_value", None)
        if stride is None:
            return None
        places, kinds = [i * stride for i in range(like.lanes // 4)], range(num_kinds)
        result = types.UniTuple(Vector("f32", like.lanes), num_kinds)

        def codegen(ctx, b, sig, args):
            rows = [b.bitcast(v, llvm_vector("i16", v.type.count // 2)) for v in args[:2]]
            width = rows[0].type.count
            if len(places) < 2 or len(places) // num_kinds == 4:
                orders = [[p + k + r for p in places for r in (0, 0, width, width)] for k in kinds]
                halves = [half_bits_to_f32(b, shuffle(b, *rows, o), tier) for o in orders]
                return ctx.make_tuple(b, result, halves)
            # Moving pairs of halves costs less; what is wanted of each is chosen when it is wide.
            pairs = [p // 2 * 2 + r + i for p in places for r in (0, width) for i in (0, 1)]
            wide = half_bits_to_f32(b, shuffle(b, *rows, pairs), tier)
            if num_kinds > 1:
                wide = as_one(b, wide, tier)
            orders = [
                [4 * i + r + p % 2 + k for i, p in enumerate(places) for r in (0, 0, 2, 2)]
                for k in kinds
            ]
            return ctx.make_tuple(b, result, [shuffle(b, wide, wide, o) for o in orders])

        return result(row, next_row, step, like), codegen

    return halves_of_rows


halves_of_rows, two_halves_of_rows = map(_define_halves_of_rows, (1, 2))


@intrinsic
def read_half(typingctx, address):
    """One IEEE half as f32."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        bits = splat(b, load_at(b, args[0], I16), 4)
        return b.extract_element(half_bits_to_f32(b, bits, tier), ir.Constant(I32, 0))

    return types.float32(types.int64), codegen


@intrinsic
def half_of_bits(typingctx, bits):
    """The IEEE half in the lower 16 bits of an integer as f32."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        values = half_bits_to_f32(b, splat(b, b.trunc(args[0], I16), 4), tier)
        return b.extract_element(values, ir.Constant(I32, 0))

    return types.float32(types.int64), codegen


@intrinsic
def read_two_halves(typingctx, address):
    """Two IEEE halves that follow each other, as f32."""
    tier, result = tier_of(typingctx), types.UniTuple(types.float32, 2)

    def codegen(ctx, b, sig, args):
        pair = load_at(b, args[0], llvm_vector("i16", 2))
        values = half_bits_to_f32(b, shuffle(b, pair, pair, [0, 1, 0, 1]), tier)
        return ctx.make_tuple(b, result, [b.extract_element(values, I32(i)) for i in range(2)])

    return result(types.int64), codegen


@intrinsic
def read_second_half(typingctx, address):
    """The second of two IEEE halves that follow each other, as f32.

    They are loaded together, which spares what puts a single half into a register.
    """
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        word = b.insert_element(constant("i32", [0] * 4), load_at(b, args[0], I32), I32(0))
        halves = b.bitcast(as_one(b, word, tier), llvm_vector("i16", 8))
        low = shuffle(b, halves, halves, range(4))
        return b.extract_element(half_bits_to_f32(b, low, tier), I32(1))

    return types.float32(types.int64), codegen


def _define_write_float(kind: str) -> Callable[..., Any]:
    @intrinsic
    def write(typingctx, address, value):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            if kind == "f32":
                b.store(args[1], pointer(b, args[0], F32), align=1)
            else:
                bits = f32_to_half_bits(b, splat(b, args[1], 4), tier)
                b.store(
                    b.extract_element(bits, ir.Constant(I32, 0)), pointer(b, args[0], I16), align=1
                )
            return ctx.get_dummy_value()

        return types.void(types.int64, types.float32), codegen

    return write


write_f16 = _define_write_float("f16")
