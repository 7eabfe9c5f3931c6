"""Unpacks weights of three values that are stored as digits of base 3, five in a byte: TQ1_0.

Where the bytes lie in a block is left to ``formats.blocks_ternary``.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.integers import PIECE_BYTES, concatenate
from edgellama.kernels_cpu.simd.vectors import (
    I8,
    I64,
    Vector,
    constant,
    llvm_vector,
    load_at,
    shuffle,
    splat,
)

LONG_PIECES, LAST_PIECE = 10, 15
"""Half blocks of the first 32 bytes, and the one of the last 4 bytes."""
POWERS = 0x51_1B_09_03_01
"""Of 3, a byte each."""
TWO_THIRDS, ONE_THIRD = 171 - 256, 86
"""From which byte on the digit before the others is 2, and 1; as signed bytes."""


@intrinsic
def trits_of_pieces(typingctx, base, half, like):
    """The digits, 0 to 2, of 16-byte pieces from number ``half`` on of the super-block."""

    def codegen(ctx, b, sig, args):
        pieces = [_piece(b, args[0], b.add(args[1], I64(i))) for i in range(like.lanes // 4)]
        return _digits(b, concatenate(b, pieces))

    return Vector("i8", 4 * like.lanes)(types.int64, types.int64, like), codegen


def _piece(builder: Any, base: Any, half: Any) -> Any:
    """16 bytes whose first digit is the one that is wanted."""
    is_long = builder.icmp_unsigned("<", half, I64(LONG_PIECES))
    is_last = builder.icmp_unsigned("==", half, I64(LAST_PIECE))
    odd = builder.shl(builder.and_(half, I64(1)), I64(4))
    at = builder.select(is_long, odd, I64(2 * PIECE_BYTES))
    loaded = load_at(builder, builder.add(base, at), llvm_vector("i8", PIECE_BYTES))
    place = builder.select(is_long, builder.lshr(half, I64(1)), builder.sub(half, I64(LONG_PIECES)))
    place = builder.and_(place, I64(7))
    power = builder.lshr(I64(POWERS), builder.shl(place, I64(3)))
    moved = builder.mul(loaded, splat(builder, builder.trunc(power, I8), PIECE_BYTES))
    four = load_at(builder, base, llvm_vector("i8", 4), 3 * PIECE_BYTES)
    four = shuffle(builder, four, four, list(range(4)) * 4)
    powers = [POWERS >> 8 * (i // 4) & 0xFF for i in range(PIECE_BYTES)]
    last = builder.mul(four, constant("i8", powers))
    return builder.select(is_last, last, moved)


def _digits(builder: Any, v: Any) -> Any:
    """The digit before the others: how many of two bounds a byte reaches."""
    count = v.type.count
    is_one, is_two = (
        builder.icmp_unsigned(">=", v, constant("i8", [bound] * count))
        for bound in (ONE_THIRD, TWO_THIRDS)
    )
    return builder.add(builder.zext(is_one, v.type), builder.zext(is_two, v.type))
