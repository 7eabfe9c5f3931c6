"""What the matrix kernels ask of a block format, and how super-blocks answer it.

Every format becomes weight = quant * scale + minimum; ``gemv``, ``gemm`` and ``embed`` are
written once over that. ``block`` counts blocks of 32 weights within a row, and ``like`` says
how many blocks are read: one per 4 lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import splat_f32
from edgellama.kernels_cpu.simd_math import mul
from edgellama.kernels_cpu.simd_scales import widen_bytes
from edgellama.kernels_cpu.simd_weights import weight_bias

Reader = Callable[..., Any]
SUPER_BLOCK = 8
"""Blocks of 32 weights in a super-block."""


@dataclass(frozen=True)
class SuperBlock:
    """The scales and minimums of 256 weights, read at once.

    ``scale_words(base)`` and ``minimum_words(base)``: two words with a signed byte for every
    group of the first and of the last four blocks, in order. ``scale_factor(base)`` and
    ``minimum_factor(base)``: the f32 that these bytes are to be multiplied with.
    """

    num_bytes: int
    scale_words: Reader
    scale_factor: Reader
    minimum_words: Reader
    minimum_factor: Reader


@dataclass(frozen=True)
class BlockCode:
    """The functions that read one format, to be called from kernels.

    ``quants[half](row, block, like)``: the bytes of the first or last 16 weights of every block,
    unsigned, or ``as_weights`` where they are ``wide`` (eight bits).
    ``scale[half](row, block, like)`` and ``minimum[half](row, block, like, scale)``: f32, four
    lanes a block; the halves share them where ``group_size`` is 32 rather than 16. ``offset()``
    is minimum / -scale of a format without super-blocks where that is constant, else None.
    """

    group_size: int
    quants: tuple[Reader, Reader]
    scale: tuple[Reader, Reader]
    minimum: tuple[Reader, Reader]
    offset: Reader | None = None
    super_block: SuperBlock | None = None
    is_wide: bool = False


def minimum_code(quants: tuple[Reader, Reader], scale: Reader, minimum: Reader) -> BlockCode:
    """A format of blocks of 32 that stores a minimum beside each scale."""
    return BlockCode(32, quants, (scale, scale), (minimum, minimum))


def offset_code(quants: tuple[Reader, Reader], scale: Reader, offset: int) -> BlockCode:
    """A format of blocks of 32 whose minimum is a constant times the scale."""
    value = np.float32(offset)

    def constant_offset():
        return value

    return _offset_code(quants, scale, device(constant_offset), is_wide=False)


def wide_code(quants: tuple[Reader, Reader], scale: Reader) -> BlockCode:
    """A format of blocks of 32 with weights of eight bits and a scale."""
    return _offset_code(quants, scale, weight_bias, is_wide=True)


def _offset_code(
    quants: tuple[Reader, Reader], scale: Reader, offset: Reader, *, is_wide: bool
) -> BlockCode:
    def minimum(row, block, like, scale):
        return mul(scale, splat_f32(-offset(), like))

    reader = device(minimum)
    return BlockCode(32, quants, (scale, scale), (reader, reader), offset, is_wide=is_wide)


def super_block_code(
    group_size: int,
    quants: tuple[Reader, Reader],
    super_block: SuperBlock,
    *,
    is_wide: bool = False,
) -> BlockCode:
    """A format of super-blocks, whose groups have small integers for scale and minimum."""
    groups = 32 // group_size
    scales, minimums = [], []
    for half in (0, 1):
        scale = _integers_of_half(
            super_block, super_block.scale_words, super_block.scale_factor, groups, half
        )
        minimum = _integers_of_half(
            super_block, super_block.minimum_words, super_block.minimum_factor, groups, half
        )
        scales.append(scale)
        minimums.append(_after_scale(minimum))
    return BlockCode(
        group_size,
        quants,
        (scales[0], scales[1]),
        (minimums[0], minimums[1]),
        super_block=super_block,
        is_wide=is_wide,
    )


def _integers_of_half(super_block, words_of, factor_of, groups, half):
    """The integers of one half of each block times their factor, four lanes a block."""
    num_bytes, shift = super_block.num_bytes, 8 * (half % groups)

    def integers(row, block, like):
        base = row + block // SUPER_BLOCK * num_bytes
        word = word_of_blocks(words_of(base), block, groups) >> shift
        return mul(widen_bytes(word, groups, like), splat_f32(factor_of(base), like))

    return device(integers)


def _after_scale(reader):
    def minimum(row, block, like, scale):
        return reader(row, block, like)

    return device(minimum)


@device
def word_of_blocks(words, block, groups):
    """The bytes of ``block`` and what follows, lowest first: ``groups`` for every block."""
    word = words[1] if block & 4 else words[0]
    return word >> (8 * groups * (block & 3))


def times(reader: Reader, number: float) -> Reader:
    """What ``reader(address)`` gives, times a constant."""
    constant = np.float32(number)

    def product(address):
        return reader(address) * constant

    return device(product)
