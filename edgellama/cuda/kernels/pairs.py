"""Rounds two f32 of a lane to two 16-bit numbers in one word, as tensor cores multiply them.

Numbers are rounded to nearest even, by one instruction where the card has it. What the pairs are
multiplied with is left to ``tensor_attention``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from edgellama.cuda.kernels.lanes import each
from edgellama.cuda.kernels.memory import helper
from edgellama.cuda.kernels.numbers import bfloat_bits_of, half_bits_of
from edgellama.kernels_cpu.simd.vectors import F32, I32

CONVERSIONS = {"f16": "cvt.rn.f16x2.f32", "bf16": "cvt.rn.bf16x2.f32"}
"""Instructions of cards since Ampere, which take the high number first."""


def pair_of(builder: Any, kind: str, low: Any, high: Any, tier: Any) -> Any:
    """A word of halves or bfloat16, rounded to nearest even."""
    if not isinstance(low.type, ir.VectorType) and tier.llvm_cpu != "sm_75":
        converting = ir.InlineAsm(
            ir.FunctionType(I32, [F32, F32]), f"{CONVERSIONS[kind]} $0, $1, $2;", "=r,f,f"
        )
        return builder.call(converting, [high, low])
    if isinstance(low.type, ir.VectorType):
        words = ir.VectorType(I32, low.type.count)
        function = helper(
            builder, f"pair_of_{kind}", words, [low.type] * 2,
            lambda b, low, high: _rounded_pair(b, kind, low, high, tier),
        )  # fmt: skip
        return builder.call(function, [low, high])
    return _rounded_pair(builder, kind, low, high, tier)


MOST = 65504.0
"""The largest half."""


def narrowed_pair_of(builder: Any, low: Any, high: Any, tier: Any) -> Any:
    """A word of halves of what was bfloat16: numbers beyond halves become the largest half."""
    return pair_of(builder, "f16", _within(builder, low), _within(builder, high), tier)


def _within(builder: Any, value: Any) -> Any:
    for comparison, bound in (("<", MOST), (">", -MOST)):
        most = each(value.type, bound)
        is_less = builder.fcmp_ordered(comparison, value, most)
        value = builder.select(is_less, value, most)
    return value


def _rounded_pair(builder: Any, kind: str, low: Any, high: Any, tier: Any) -> Any:
    if kind == "f16":
        bits = [half_bits_of(builder, value, tier) for value in (low, high)]
    else:
        bits = [bfloat_bits_of(builder, value) for value in (low, high)]
    return builder.or_(bits[0], builder.shl(bits[1], each(bits[1].type, 16)))
