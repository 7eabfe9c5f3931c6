"""Scales that are powers of two, stored as one byte of exponent, as in MXFP4.

Where the bytes lie in a block is left to ``formats.blocks_iquants``.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.vectors import (
    I8,
    I32,
    Vector,
    constant,
    llvm_vector,
    load_at,
    shuffle,
)

MANTISSA_BITS = 23


def _powers(builder: Any, exponents: Any) -> Any:
    """2 ** (e - 128) of integers e up to 255 as f32, the two that are subnormal included."""
    lanes = exponents.type.count

    def each(number: int) -> Any:
        return constant("i32", [number] * lanes)

    normal = builder.shl(builder.sub(exponents, each(1)), each(MANTISSA_BITS))
    small = builder.shl(each(1 << MANTISSA_BITS - 2), exponents)
    is_small = builder.icmp_unsigned("<", exponents, each(2))
    return builder.bitcast(builder.select(is_small, small, normal), llvm_vector("f32", lanes))


@intrinsic(prefer_literal=True)
def load_exponents(typingctx, address, stride, like):
    """The power of two of a byte at each of ``address``, ``address + stride``, … in four lanes."""
    step, count = getattr(stride, "literal_value", None), like.lanes // 4
    if step is None:
        return None

    def codegen(ctx, b, sig, args):
        exponents = constant("i32", [0] * 4)
        for i in range(count):
            byte = b.zext(load_at(b, args[0], I8, i * step), I32)
            exponents = b.insert_element(exponents, byte, I32(i))
        order = [i for i in range(count) for _ in range(4)]
        return _powers(b, shuffle(b, exponents, exponents, order))

    return Vector("f32", like.lanes)(types.int64, stride, like), codegen


@intrinsic
def exponents_of_words(typingctx, words):
    """The power of two of the lowest byte of every word."""
    lanes = words.lanes // 4

    def codegen(ctx, b, sig, args):
        integers = b.bitcast(args[0], llvm_vector("i32", lanes))
        return _powers(b, b.and_(integers, constant("i32", [255] * lanes)))

    return Vector("f32", lanes)(words), codegen
