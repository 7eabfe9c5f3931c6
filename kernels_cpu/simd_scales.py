"""Small integers of super-blocks: a word of bytes spread to the lanes of the blocks they scale."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd import (
    Vector,
    call_llvm,
    constant,
    llvm_vector,
    shuffle,
    tier_of,
)

BYTE_UNIT = 2.0**-24
"""What a byte counts that stands at the top of a 32-bit lane; that makes it signed for nothing."""
PAIR_UNIT = 2.0**-8
"""What a byte counts that stands at the top of a 16-bit lane."""


def _bytes_on_top(builder: Any, word: Any, numbers: Iterable[int | None], width: int) -> Any:
    """Bytes of a 64-bit word, each at the top of ``width`` zero bytes; None is zero as well."""
    taken = builder.bitcast(word, llvm_vector("i8", 8))
    order = []
    for number in numbers:
        order += [8] * (width - 1) + [8 if number is None else number]
    return shuffle(builder, taken, constant("i8", [0] * 8), order)


def _as_f32(builder: Any, spread: Any, lanes: int) -> Any:
    return builder.sitofp(
        builder.bitcast(spread, llvm_vector("i32", lanes)), llvm_vector("f32", lanes)
    )


@intrinsic(prefer_literal=True)
def widen_bytes(typingctx, word, step, like):
    """Signed bytes 0, ``step``, 2 ``step``, … of ``word`` / BYTE_UNIT as f32, four lanes each."""
    stride = getattr(step, "literal_value", None)
    if stride is None:
        return None

    def codegen(ctx, b, sig, args):
        numbers = [i * stride for i in range(like.lanes // 4) for _ in range(4)]
        return _as_f32(b, _bytes_on_top(b, args[0], numbers, 4), like.lanes)

    return Vector("f32", like.lanes)(types.int64, step, like), codegen


@intrinsic
def widen_pairs(typingctx, word, like):
    """Signed bytes of ``word`` / BYTE_UNIT as f32, in order, two lanes each."""

    def codegen(ctx, b, sig, args):
        numbers = [i for i in range(like.lanes // 2) for _ in range(2)]
        return _as_f32(b, _bytes_on_top(b, args[0], numbers, 4), like.lanes)

    return Vector("f32", like.lanes)(types.int64, like), codegen


@intrinsic
def spread_pairs(typingctx, word, like):
    """Signed bytes of ``word`` / PAIR_UNIT as i16, in order, four lanes each."""

    def codegen(ctx, b, sig, args):
        numbers = [i for i in range(like.lanes // 2) for _ in range(4)]
        spread = _bytes_on_top(b, args[0], numbers, 2)
        return b.bitcast(spread, llvm_vector("i16", 2 * like.lanes))

    return Vector("i16", 2 * like.lanes)(types.int64, like), codegen


@intrinsic
def pairs_of_ones(typingctx, like):
    """i16 ones, as many as ``spread_pairs`` gives."""
    count = 2 * like.lanes
    return Vector("i16", count)(like), lambda ctx, b, sig, args: constant("i16", [1] * count)


PAIR_INSTRUCTIONS = {
    4: ("sse2.packssdw.128", "sse2.pmadd.wd"),
    8: ("avx2.packssdw", "avx2.pmadd.wd"),
    16: ("avx512.packssdw.512", "avx512.pmaddw.d.512"),
}


@intrinsic
def dot_pairs(typingctx, low, high, scales):
    """Of each block, four lanes of ``low`` and of ``high``, scaled and added in pairs.

    Two lanes from ``low`` come first, then two from ``high``. Integers beyond 16 bits are not
    allowed in either.
    """
    tier, lanes = tier_of(typingctx), low.lanes

    def codegen(ctx, b, sig, args):
        if tier.has_pair_dot:
            pack, multiply = (f"llvm.x86.{name}" for name in PAIR_INSTRUCTIONS[lanes])
            packed = call_llvm(b, pack, llvm_vector("i16", 2 * lanes), list(args[:2]))
            return call_llvm(b, multiply, llvm_vector("i32", lanes), [packed, args[2]])
        order = [source + 4 * i + j for i in range(lanes // 4) for source in (0, lanes)
                 for j in (0, 2)]  # fmt: skip
        even = shuffle(b, args[0], args[1], order)
        odd = shuffle(b, args[0], args[1], [n + 1 for n in order])
        factors = shuffle(b, args[2], args[2], range(0, 2 * lanes, 2))
        return b.mul(b.add(even, odd), b.sext(factors, llvm_vector("i32", lanes)))

    return low(low, high, scales), codegen
