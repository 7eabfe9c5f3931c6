"""Adds the fifth bit to quants of five bits, which formats store apart from the other four.

Where the bits lie in a block is left to the modules of ``formats``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.integers import PIECE_BYTES
from edgellama.kernels_cpu.simd.vectors import constant, shuffle, tier_of
from edgellama.kernels_cpu.simd.whole_registers import has_move_signs, move_signs


@intrinsic(prefer_literal=True)
def fifth_bits(typingctx, pieces, position):
    """The 16 bits at byte ``position`` of each 16-byte piece, each as 16 in a byte of its own."""
    start, tier = getattr(position, "literal_value", None), tier_of(typingctx)
    if start is None:
        return None

    def codegen(ctx, b, sig, args):
        order = [i // PIECE_BYTES * PIECE_BYTES + start + i % PIECE_BYTES // 8
                 for i in range(pieces.lanes)]  # fmt: skip
        bits = [1 << i % 8 if i % 8 < 7 else -128 for i in range(pieces.lanes)]
        zeros = constant("i8", [0] * pieces.lanes)
        kept = b.and_(shuffle(b, args[0], args[0], order), constant("i8", bits))
        if has_move_signs(tier):
            # A bit above zero keeps the sign of a 16, the one that is itself a sign changes it.
            signed = constant("i8", [16 if bit > 0 else -16 for bit in bits])
            return move_signs(b, signed, kept, tier)
        return b.select(
            b.icmp_unsigned("!=", kept, zeros), constant("i8", [16] * pieces.lanes), zeros
        )

    return pieces(pieces, position), codegen


def define_fifth_bits_of_words(half: int) -> Callable[..., Any]:
    """An intrinsic: 16 of the 32 bits of every word, each as 16 in a byte of its own.

    Four vectors, the first with four bits of every word in its four bytes.
    """

    @intrinsic
    def fifth_bits(typingctx, v):
        result, lanes = types.UniTuple(v, 4), v.lanes // 4

        def codegen(ctx, b, sig, args):
            zeros, found = constant("i8", [0] * v.lanes), constant("i8", [16] * v.lanes)
            vectors = []
            for word in range(4):
                number = 2 * half + word // 2
                order = [4 * lane + number for lane in range(lanes) for _ in range(4)]
                bits = [1 << 4 * (word % 2) + i for i in range(4)]
                bits = [bit - 256 if bit > 127 else bit for bit in bits] * lanes
                kept = b.and_(shuffle(b, args[0], args[0], order), constant("i8", bits))
                vectors.append(b.select(b.icmp_unsigned("!=", kept, zeros), found, zeros))
            return ctx.make_tuple(b, result, vectors)

        return result(v), codegen

    return fifth_bits
