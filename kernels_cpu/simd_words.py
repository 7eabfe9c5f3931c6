"""Pieces of 16 bytes as four 32-bit words: picking, rotating and masking each on its own."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd import I32, Vector, call_llvm, constant, llvm_vector, shuffle, splat
from edgellama.kernels_cpu.simd_bytes import PIECE_BYTES


def _literals(*numbers: Any) -> list[Any] | None:
    values = [getattr(number, "literal_value", None) for number in numbers]
    return None if None in values else values


@intrinsic(prefer_literal=True)
def pick_words(typingctx, piece, first, second, third, fourth):
    """Four words of a piece, by literal number."""
    order = _literals(first, second, third, fourth)
    if order is None:
        return None

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", 4))
        return b.bitcast(shuffle(b, words, words, order), args[0].type)

    return piece(piece, first, second, third, fourth), codegen


@intrinsic
def rotate_words(typingctx, piece, first, second, third, fourth):
    """Each word rotated left, and right where the number is negative."""

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", 4))
        amounts = constant("i32", [0] * 4)
        for lane, amount in enumerate(args[1:]):
            amounts = b.insert_element(amounts, b.and_(b.trunc(amount, I32), I32(31)), I32(lane))
        return b.bitcast(
            call_llvm(b, "llvm.fshl.v4i32", words.type, [words, words, amounts]), args[0].type
        )

    return piece(piece, *[types.int64] * 4), codegen


@intrinsic(prefer_literal=True)
def keep_word_bits(typingctx, piece, first, second, third, fourth):
    """Of each word the bits of a literal."""
    masks = _literals(first, second, third, fourth)
    if masks is None:
        return None

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", 4))
        return b.bitcast(b.and_(words, constant("i32", masks)), args[0].type)

    return piece(piece, first, second, third, fourth), codegen


@intrinsic
def piece_of(typingctx, word):
    """A 64-bit word, twice, as a piece."""

    def codegen(ctx, b, sig, args):
        return b.bitcast(splat(b, args[0], 2), llvm_vector("i8", PIECE_BYTES))

    return Vector("i8", PIECE_BYTES)(types.int64), codegen


@intrinsic
def repeat_piece(typingctx, piece, like):
    """A piece as often as it fits into ``like``."""

    def codegen(ctx, b, sig, args):
        return shuffle(b, args[0], args[0], list(range(PIECE_BYTES)) * (like.lanes // 4))

    return Vector("i8", 4 * like.lanes)(piece, like), codegen
