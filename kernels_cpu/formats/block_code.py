"""What ``gemv`` and ``embed`` ask of a block format, and how super-blocks answer it.

Every format becomes weight = quant * scale + minimum; both are written once over that. ``block``
counts blocks of 32 weights within a row, and ``like`` says how many blocks are read: one per four
lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgellama.kernels_cpu.signatures import SUPER_BLOCK
from edgellama.kernels_cpu.simd.arithmetic import mul
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.scales import BYTE_UNIT, UNSIGNED_UNIT, widen_signed, widen_unsigned
from edgellama.kernels_cpu.simd.vectors import splat_f32
from edgellama.kernels_cpu.simd.weight_bytes import weight_bias

Reader = Callable[..., Any]
WIDE_RANGE = (255, 128)
"""Largest quant and centre of weights of eight bits, where they are taken as unsigned."""


@dataclass(frozen=True)
class SuperBlock:
    """How 256 weights are read at once.

    ``scales(base, like)`` and ``minimums(base, like)``, where there are any: a byte for every
    group, in 16 bytes that are repeated as often as they fit; scales are signed, minimums begin at
    byte ``first_minimum``. They count ``scale_unit`` times the first of ``factors(base)``, and
    minus ``minimum_unit`` times the second. ``pieces(base, half, like)``: the quants as 16-byte
    pieces, from number ``half`` on in the order number ``order`` of ``BLOCK_ORDERS``; without an
    order they are read block by block.
    """

    num_bytes: int
    scales: Reader
    factors: Reader
    scale_unit: float = 1.0
    order: int | None = None
    pieces: Reader | None = None
    minimums: Reader | None = None
    minimum_unit: float = 1.0
    first_minimum: int = 0


@dataclass(frozen=True)
class BlockCode:
    """The functions that read one format, to be called from kernels.

    ``quants[half](row, block, like)``: the bytes of the first or last 16 weights of every block,
    unsigned, or ``as_weights`` where they are ``wide`` (eight bits).
    ``scale[half](row, block, like)`` and ``minimum[half](row, block, like, scale)``: f32, four
    lanes a block; the halves share them where ``group_size`` is 32 rather than 16.

    ``centre`` is taken off every quant, the largest of which is ``largest``, where that is all that
    the minimum does: without ``has_minimum``. Wide weights are ``negatable`` if none is -128.
    """

    group_size: int
    quants: tuple[Reader, Reader]
    scale: tuple[Reader, Reader]
    minimum: tuple[Reader, Reader]
    largest: int
    centre: int
    has_minimum: bool
    super_block: SuperBlock | None = None
    is_wide: bool = False
    is_negatable: bool = False

    def __post_init__(self) -> None:
        """Check that the eight products of a lane fit into 16 bits."""
        farthest = max(self.centre, self.largest - self.centre)
        is_packed = self.super_block is None and not self.is_wide
        if is_packed and 8 * 127 * farthest >= 1 << 15:
            raise ValueError(f"quants up to {self.largest} around {self.centre} overflow")


def constant(number: float) -> Reader:
    """A function that gives the number as f32."""
    value = np.float32(number)

    def give():
        return value

    return device(give)


def minimum_code(
    quants: tuple[Reader, Reader], scale: Reader, minimum: Reader, largest: int
) -> BlockCode:
    """A format of blocks of 32 that stores a minimum beside each scale."""
    readers = (quants, (scale, scale), (minimum, minimum))
    return BlockCode(32, *readers, largest, 0, has_minimum=True)


def offset_code(quants: tuple[Reader, Reader], scale: Reader, offset: int) -> BlockCode:
    """A format of blocks of 32 whose minimum is a constant times the scale."""
    return _offset_code(quants, scale, constant(offset), 2 * offset - 1, offset)


def wide_code(quants: tuple[Reader, Reader], scale: Reader) -> BlockCode:
    """A format of blocks of 32 with weights of eight bits and a scale."""
    return _offset_code(quants, scale, weight_bias, *WIDE_RANGE, is_wide=True)


def _offset_code(
    quants: tuple[Reader, Reader],
    scale: Reader,
    offset: Reader,
    largest: int,
    centre: int,
    *,
    is_wide: bool = False,
) -> BlockCode:
    reader = _times_scale(offset)
    readers = (quants, (scale, scale), (reader, reader))
    return BlockCode(32, *readers, largest, centre, False, is_wide=is_wide)


def super_block_code(
    group_size: int,
    quants: tuple[Reader, Reader],
    super_block: SuperBlock,
    largest: int,
    offset: Reader | None = None,
    *,
    is_wide: bool = False,
) -> BlockCode:
    """A format of super-blocks, whose groups have small integers for scale and minimum.

    Without minimums of its own that of a group is minus ``offset()`` times the scale.
    """
    groups = 32 // group_size
    firsts = (0, 1 % groups)
    low, high = (_scale_of(super_block, first, groups) for first in firsts)
    if offset is None:
        minimums = tuple(_minimum_of(super_block, first, groups) for first in firsts)
    else:
        minimums = (_times_scale(offset),) * 2
    return BlockCode(
        group_size,
        quants,
        (low, high),
        (minimums[0], minimums[1]),
        largest,
        0 if offset is None else (largest + 1) // 2,
        has_minimum=offset is None,
        super_block=super_block,
        is_wide=is_wide,
    )


def _scale_of(parts: SuperBlock, first: int, step: int) -> Reader:
    """Scales as f32, four lanes a block: byte ``first`` and each ``step``-th."""
    num_bytes, scales_of, factors = parts.num_bytes, parts.scales, parts.factors
    unit = np.float32(parts.scale_unit * BYTE_UNIT)

    def scale(row, block, like):
        base = row + block // SUPER_BLOCK * num_bytes
        wide = widen_signed(scales_of(base, like), first + block % SUPER_BLOCK * step, step, like)
        return mul(wide, splat_f32(factors(base)[0] * unit, like))

    return device(scale)


def _minimum_of(parts: SuperBlock, first: int, step: int) -> Reader:
    """Minimums likewise."""
    num_bytes, minimums_of, factors = parts.num_bytes, parts.minimums, parts.factors
    unit = np.float32(-parts.minimum_unit * UNSIGNED_UNIT)
    first += parts.first_minimum

    def minimum(row, block, like, scale):
        base = row + block // SUPER_BLOCK * num_bytes
        wide = widen_unsigned(
            minimums_of(base, like), first + block % SUPER_BLOCK * step, step, like
        )
        return mul(wide, splat_f32(factors(base)[1] * unit, like))

    return device(minimum)


def _times_scale(offset: Reader) -> Reader:
    """The minimum that takes ``offset()`` off every quant."""

    def minimum(row, block, like, scale):
        return mul(scale, splat_f32(-offset(), like))

    return device(minimum)
