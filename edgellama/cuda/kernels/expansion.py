"""Converts words of the cache, with their scale, to the numbers of a tile of keys or values.

A tile holds pairs of halves, pairs of bfloat16, or f32. Each number is the one that the cache
stands for, rounded once. Where the words come from and go to is left to ``tile_copies``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from edgellama.cuda.kernels.lanes import each
from edgellama.cuda.kernels.numbers import WORDS, bfloats_of, bytes_of, halves_of, nibbles_of
from edgellama.cuda.kernels.pairs import narrowed_pair_of, pair_of
from edgellama.cuda.kernels.warp import call_nvvm
from edgellama.cuda.layouts import WARP
from edgellama.kernels_cpu.signatures import CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.vectors import F16, I32


def as_pairs(
    builder: Any, kind: str, raw: list[Any], tier: Any, multiplied: str
) -> list[list[Any]]:
    """Four words of eight numbers each, halves or bfloat16 as they are ``multiplied``.

    Of the four words of a chunk and the bits of its scale.
    """
    words, scale = raw[:4], raw[-1]
    if kind == multiplied:
        return [words]
    if kind == "bf16":
        return [[_narrowed(builder, word, tier) for word in words]]
    if kind == "q8_0":
        pairs = [_scaled_bytes(builder, word, scale, tier) for word in words]
        return [pairs[0] + pairs[1], pairs[2] + pairs[3]]
    low, high = zip(*(_scaled_nibbles(builder, word, scale, tier) for word in words), strict=True)
    return [half[at] + half[at + 1] for half in (low, high) for at in (0, 2)]


def as_floats(builder: Any, kind: str, raw: list[Any], tier: Any) -> list[list[Any]]:
    """The same as four f32 each."""
    words, scale = raw[:4], raw[-1]
    width = words[0].type.count if isinstance(words[0].type, ir.VectorType) else 1
    found = [WORDS[kind](builder, word, width, tier) for word in words]
    values = [value for numbers in found for value in numbers]
    if kind == "q4_0":
        values = [value for half in (0, 4) for four in found for value in four[half : half + 4]]
    if kind in CACHE_SCALE_ELEMENTS:
        factor = halves_of(builder, scale, width, tier)[0]
        values = [builder.fmul(value, factor) for value in values]
    return [values[i : i + 4] for i in range(0, len(values), 4)]


def _narrowed(builder: Any, word: Any, tier: Any) -> Any:
    """Two bfloat16 as halves: exactly between 2**-14 and the largest half, else what is next."""
    width = word.type.count if isinstance(word.type, ir.VectorType) else 1
    low, high = bfloats_of(builder, word, width, tier)
    return narrowed_pair_of(builder, low, high, tier)


PLACED_PAIRS = (0x4140, 0x4342)
"""Permutations of a word's two low or high bytes to the low bytes of two halves 1024 + byte."""
THOUSANDS = 0x64646464
"""Bytes that make it so."""


def _scaled_bytes(builder: Any, word: Any, scale: Any, tier: Any) -> list[Any]:
    """Two words of halves: signed bytes times their scale, rounded once."""
    if isinstance(word.type, ir.VectorType):
        return _scaled_in_f32(builder, bytes_of(builder, word, WARP, tier), scale, tier)
    unsigned = builder.xor(word, each(word.type, -0x7F7F7F80))
    return _scaled_pairs(builder, unsigned, 1024.0 + 128.0, scale)


def _scaled_nibbles(builder: Any, word: Any, scale: Any, tier: Any) -> tuple[list[Any], list[Any]]:
    """The same of four low nibbles, and of four high ones."""
    if isinstance(word.type, ir.VectorType):
        values = nibbles_of(builder, word, WARP, tier)
        parts = (values[:4], values[4:])
        low, high = (_scaled_in_f32(builder, part, scale, tier) for part in parts)
        return low, high
    mask = each(word.type, 0x0F0F0F0F)
    low = builder.and_(word, mask)
    high = builder.and_(builder.lshr(word, each(word.type, 4)), mask)
    first, second = (_scaled_pairs(builder, part, 1024.0 + 8.0, scale) for part in (low, high))
    return first, second


def _scaled_pairs(builder: Any, word: Any, less: float, scale: Any) -> list[Any]:
    """Four unsigned bytes, less a number, times a scale, as halves; the card's instructions."""
    pair = ir.VectorType(F16, 2)
    scales = call_nvvm(builder, "llvm.nvvm.prmt", I32, [scale, scale, I32(0x1010)])
    scales = builder.bitcast(scales, pair)
    result = []
    for order in PLACED_PAIRS:
        placed = call_nvvm(builder, "llvm.nvvm.prmt", I32, [word, I32(THOUSANDS), I32(order)])
        numbers = builder.fsub(builder.bitcast(placed, pair), ir.Constant(pair, [less] * 2))
        result.append(builder.bitcast(builder.fmul(numbers, scales), I32))
    return result


def _scaled_in_f32(builder: Any, values: list[Any], scale: Any, tier: Any) -> list[Any]:
    """The CPU form of it: products are exact in f32, so they are rounded once, too."""
    factor = halves_of(builder, scale, WARP, tier)[0]
    products = [builder.fmul(value, factor) for value in values]
    return [pair_of(builder, "f16", products[i], products[i + 1], tier) for i in (0, 2)]
