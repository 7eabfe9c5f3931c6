"""Signs that are stored apart from magnitudes: one bit for each number, or seven for every eight.

The bits are those of an integer; the lowest bit belongs to the first byte. Where the integer lies
in a block is left to ``formats``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import (
    I32,
    I64,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    splat,
    tier_of,
)

Function = Callable[..., Any]
ODD_BYTES = 0x0101010101010101


@intrinsic
def read_bits(typingctx, address, like):
    """A bit for each byte of a vector with as many lanes as ``like``."""

    def codegen(ctx, b, sig, args):
        bits = b.load(pointer(b, args[0], ir.IntType(4 * like.lanes)), align=1)
        return b.zext(bits, I64) if like.lanes < 16 else bits

    return types.int64(types.int64, like), codegen


def define_signs(signs_at: Function, sevens_from: Function) -> Function:
    """An intrinsic: the bits of ``read_bits`` from signs of which the eighth of a byte is missing.

    ``signs_at(base, half, like)`` gives them for narrow vectors; ``sevens_from(builder, base)``
    builds LLVM code for the 32 bytes of a super-block, seven signs each. The eighth makes the
    number of minus signs even.
    """
    narrow = device(signs_at)

    @intrinsic
    def signs(typingctx, base, half, like):
        kind, numbers = typingctx.resolve_value_type(narrow), (types.int64, types.int64, like)
        signature = kind.get_call_type(typingctx, numbers, {})

        def codegen(ctx, b, sig, args):
            if like.lanes < 16:
                return ctx.get_function(kind, signature)(b, args)
            bytes_of = sevens_from(b, args[0])
            words = b.bitcast(bytes_of, ir.VectorType(I64, 4))
            folded = words
            for bits in (4, 2, 1):
                moved = b.lshr(folded, ir.Constant(words.type, [bits] * 4))
                folded = b.xor(folded, moved)
            ones = ir.Constant(words.type, [ODD_BYTES] * 4)
            eighth = b.shl(b.and_(folded, ones), ir.Constant(words.type, [7] * 4))
            place = b.trunc(b.lshr(args[1], I64(2)), I32)
            return b.extract_element(b.or_(words, eighth), place)

        return types.int64(*numbers), codegen

    return signs


def define_sevens_of_words(at: int, word_bits: int) -> Function:
    """What builds 32 bytes from eight words with four times seven signs in their lower bits.

    Of words of 64 bits the upper half has them.
    """

    def sevens_from(builder: Any, base: Any) -> Any:
        words = load_at(builder, base, ir.VectorType(ir.IntType(word_bits), 8), at)
        kind = llvm_vector("i32", 8)
        if word_bits == 64:
            words = builder.trunc(builder.lshr(words, ir.Constant(words.type, [32] * 8)), kind)
        spread = builder.and_(words, constant("i32", [0x7F] * 8))
        for place in range(1, 4):
            moved = builder.shl(words, constant("i32", [place] * 8))
            moved = builder.and_(moved, constant("i32", [0x7F << 8 * place] * 8))
            spread = builder.or_(spread, moved)
        return builder.bitcast(spread, llvm_vector("i8", 32))

    return sevens_from


def define_sevens_of_halves(at: int) -> Function:
    """The same from the upper bits of 16, for each byte."""

    def sevens_from(builder: Any, base: Any) -> Any:
        words = load_at(builder, base, llvm_vector("i16", 32), at)
        return builder.trunc(builder.lshr(words, constant("i16", [9] * 32)), llvm_vector("i8", 32))

    return sevens_from


def negated_where(builder: Any, v: Any, bits: Any, tier: Tier) -> Any:
    """Signed bytes, negated where their bit of an integer is set."""
    lanes = v.type.count
    if tier.lanes == 16:
        mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), lanes))
        return builder.select(mask, builder.neg(v), v)
    words = builder.bitcast(splat(builder, bits, 128 // bits.type.width), llvm_vector("i8", 16))
    places = [i // 8 for i in range(lanes)]
    flags = constant("i8", [1 << i % 8 if i % 8 < 7 else -128 for i in range(lanes)])
    kept = builder.and_(shuffle(builder, words, words, places), flags)
    ones = builder.sext(builder.icmp_signed("==", kept, flags), v.type)
    return builder.sub(builder.xor(v, ones), ones)


@intrinsic
def negate_where(typingctx, v, bits):
    """Signed bytes, negated where their bit is set."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        bits = args[1] if v.lanes == 64 else b.trunc(args[1], ir.IntType(v.lanes))
        return negated_where(b, args[0], bits, tier)

    return v(v, types.int64), codegen


@intrinsic
def one_more_or_less(typingctx, v, bits):
    """Bytes and 1, less where their bit is set, and else more."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        bits = args[1] if v.lanes == 64 else b.trunc(args[1], ir.IntType(v.lanes))
        return b.add(args[0], negated_where(b, constant("i8", [1] * v.lanes), bits, tier))

    return v(v, types.int64), codegen


@device
def with_parity(signs):
    """Bytes of seven signs with the eighth."""
    folded = signs ^ signs >> 4
    folded ^= folded >> 2
    folded ^= folded >> 1
    return signs | (folded & ODD_BYTES) << 7


@device
def four_times_seven(word):
    """The lower 28 bits of a word as four bytes that ``with_parity`` completes."""
    spread = word & 0x7F | (word & 0x7F << 7) << 1
    return with_parity(spread | (word & 0x7F << 14) << 2 | (word & 0x7F << 21) << 3)
