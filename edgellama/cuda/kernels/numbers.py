"""Arithmetic in each lane: rounding, powers of two, and the number types of the cache.

A lane is a thread on the card and an element of a vector in the CPU form. Both forms round alike,
so that tests can compare them. Where the numbers lie in pages is left to ``layouts``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import each, lanes_llvm
from edgellama.cuda.kernels.memory import helper
from edgellama.cuda.kernels.warp import call_nvvm
from edgellama.kernels_cpu.simd.arithmetic import multiply_add
from edgellama.kernels_cpu.simd.attention_vectors import POWER_SERIES, ROUNDING
from edgellama.kernels_cpu.simd.halves import f32_to_half_bits, half_bits_to_f32
from edgellama.kernels_cpu.simd.vectors import F16, F32, I16, I32, call_llvm, tier_of

LOWEST_POWER = -126.0
"""Powers below are zero."""


def fused(builder: Any, x: Any, y: Any, z: Any, tier: Any) -> Any:
    """x * y + z of LLVM values; rounded once, on CPUs where they have the instruction."""
    if isinstance(x.type, ir.VectorType):
        return multiply_add(builder, x, y, z, tier)
    return call_llvm(builder, "llvm.fma.f32", F32, [x, y, z])


def _define_choice(comparison: str) -> Callable[..., Any]:
    @intrinsic
    def choose(typingctx, x, y):
        def codegen(ctx, b, sig, args):
            compare = b.fcmp_ordered if x.kind == "f32" else b.icmp_signed
            return b.select(compare(comparison, *args), *args)

        return x(x, y), codegen

    return choose


larger, smaller = _define_choice(">"), _define_choice("<")
"""The larger or smaller number in each lane; ``y`` where ``x`` is not a number."""


@intrinsic
def magnitude(typingctx, x):
    """Absolute values of f32 lanes."""

    def codegen(ctx, b, sig, args):
        name = "llvm.fabs.f32" if x.width == 1 else f"llvm.fabs.v{x.width}f32"
        return call_llvm(b, name, x.llvm, list(args))

    return x(x), codegen


def powers_of_two(builder: Any, x: Any, tier: Any) -> Any:
    """2**x of f32 LLVM values up to 126."""
    if not isinstance(x.type, ir.VectorType):
        return call_nvvm(builder, "llvm.nvvm.ex2.approx.ftz.f", F32, [x])
    name, kinds = f"powers_of_two_{x.type.count}", [x.type]
    function = helper(builder, name, x.type, kinds, lambda b, x: _powers_by_series(b, x, tier))
    return builder.call(function, [x])


def _powers_by_series(builder: Any, x: Any, tier: Any) -> Any:
    """The CPU form of it."""
    f32, i32 = x.type, ir.VectorType(I32, x.type.count)
    is_tiny = builder.fcmp_ordered("<", x, each(f32, LOWEST_POWER))
    clamped = builder.select(is_tiny, each(f32, LOWEST_POWER), x)
    magic = builder.fadd(clamped, each(f32, ROUNDING))
    rest = builder.fsub(clamped, builder.fsub(magic, each(f32, ROUNDING)))
    value = each(f32, POWER_SERIES[0])
    for coefficient in POWER_SERIES[1:]:
        value = fused(builder, value, rest, each(f32, coefficient), tier)
    # The whole part stands in the low bits of ``magic``; shifted, it is added to the exponent.
    exponent = builder.shl(builder.bitcast(magic, i32), each(i32, 23))
    bits = builder.add(builder.bitcast(value, i32), exponent)
    return builder.select(is_tiny, each(f32, 0.0), builder.bitcast(bits, f32))


# Rounding to what the cache holds.


def half_bits_of(builder: Any, value: Any, tier: Any) -> Any:
    """f32 LLVM values as IEEE halves in the low 16 bits of i32, to nearest even."""
    if value.type == F32:
        return builder.zext(builder.bitcast(builder.fptrunc(value, F16), I16), I32)
    return builder.zext(f32_to_half_bits(builder, value, tier), lanes_llvm("i32", value.type.count))


def bfloat_bits_of(builder: Any, value: Any) -> Any:
    """The same as bfloat16; NaN becomes quiet."""
    words = I32 if value.type == F32 else lanes_llvm("i32", value.type.count)

    def number(number: int) -> Any:
        return each(words, number)

    bits = builder.bitcast(value, words)
    odd = builder.and_(builder.lshr(bits, number(16)), number(1))
    rounded = builder.add(bits, builder.add(odd, number(0x7FFF)))
    size = builder.and_(bits, number(0x7FFFFFFF))
    is_nan = builder.icmp_unsigned(">", size, number(0x7F800000))
    chosen = builder.select(is_nan, builder.or_(bits, number(0x00400000)), rounded)
    return builder.lshr(chosen, number(16))


@intrinsic
def half_bits(typingctx, x):
    """f32 lanes as IEEE halves in the low 16 bits of i32, to nearest even."""
    lanes, tier = x.of("i32"), tier_of(typingctx)
    return lanes(x), lambda ctx, b, sig, args: half_bits_of(b, args[0], tier)


@intrinsic
def bfloat_bits(typingctx, x):
    """f32 lanes as bfloat16 in the low 16 bits of i32, to nearest even; NaN becomes quiet."""
    lanes = x.of("i32")
    return lanes(x), lambda ctx, b, sig, args: bfloat_bits_of(b, args[0])


# Words of the cache as f32. Each function gives LLVM values for one i32 word a lane.


def halves_of(builder: Any, word: Any, width: int, tier: Any) -> list[Any]:
    """Two IEEE halves."""
    parts = [word, builder.lshr(word, each(word.type, 16))]
    bits = [builder.trunc(part, lanes_llvm("i16", width)) for part in parts]
    if width == 1:
        return [builder.fpext(builder.bitcast(part, F16), F32) for part in bits]
    return [half_bits_to_f32(builder, part, tier) for part in bits]


def bfloats_of(builder: Any, word: Any, width: int, tier: Any) -> list[Any]:
    """Two bfloat16."""
    parts = [builder.shl(word, each(word.type, 16)), builder.and_(word, each(word.type, -0x10000))]
    return [builder.bitcast(part, lanes_llvm("f32", width)) for part in parts]


def float_of(builder: Any, word: Any, width: int, tier: Any) -> list[Any]:
    """One f32."""
    return [builder.bitcast(word, lanes_llvm("f32", width))]


HIGH_BITS = 0x4B000000
"""With a byte below, the f32 2**23 + byte: converting would take a slow unit of the card."""
PLACED_BYTE = 0x7540
"""The permutation whose lowest digit says which byte of a word comes below HIGH_BITS."""


def _bytes_less(builder: Any, word: Any, less: float, width: int) -> list[Any]:
    """Four unsigned bytes as f32, less a number."""
    f32 = lanes_llvm("f32", width)
    values = []
    for i in range(4):
        if width == 1:
            arguments = [word, I32(HIGH_BITS), I32(PLACED_BYTE + i)]
            bits = call_nvvm(builder, "llvm.nvvm.prmt", I32, arguments)
        else:
            part = builder.and_(builder.lshr(word, each(word.type, 8 * i)), each(word.type, 255))
            bits = builder.or_(part, each(word.type, HIGH_BITS))
        values.append(builder.fsub(builder.bitcast(bits, f32), each(f32, 2.0**23 + less)))
    return values


def bytes_of(builder: Any, word: Any, width: int, tier: Any) -> list[Any]:
    """Four signed bytes."""
    unsigned = builder.xor(word, each(word.type, -0x7F7F7F80))
    return _bytes_less(builder, unsigned, 128.0, width)


def nibbles_of(builder: Any, word: Any, width: int, tier: Any) -> list[Any]:
    """Four low nibbles, whose zero is 8, then four high ones."""
    mask = each(word.type, 0x0F0F0F0F)
    low = builder.and_(word, mask)
    high = builder.and_(builder.lshr(word, each(word.type, 4)), mask)
    return [
        *_bytes_less(builder, low, 8.0, width),
        *_bytes_less(builder, high, 8.0, width),
    ]


WORDS = {
    "f32": float_of, "f16": halves_of, "bf16": bfloats_of, "q8_0": bytes_of, "q4_0": nibbles_of,
}  # fmt: skip
"""By type of the cache, what a word of its numbers holds."""
