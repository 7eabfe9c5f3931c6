"""What ``gemv`` and ``embed`` ask of a block format, and how super-blocks answer it.

In every format a weight is quant * scale + minimum, and the code for both is written once in these
terms. ``block`` is the number of a block of 32 weights within its row. ``like`` is a vector whose
length says how many blocks are read: one for every four lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgellama.kernels_cpu.layouts import HALVES, SUPER_BLOCK
from edgellama.kernels_cpu.simd.arithmetic import mul
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.scales import BYTE_UNIT, UNSIGNED_UNIT, widen_signed, widen_unsigned
from edgellama.kernels_cpu.simd.vectors import splat_f32
from edgellama.kernels_cpu.simd.weight_bytes import weight_bias
from edgellama.quant.formats import FORMATS_BY_NAME, Format, Quants

Reader = Callable[..., Any]
ONE_BYTE_EACH = tuple(range(HALVES))
"""Where the numbers of groups of 16 weights lie."""


@dataclass(frozen=True)
class SuperBlock:
    """How 256 weights are read at once.

    ``scales(base, like)`` and ``minimums(base, like)``, where there are any: a byte for every
    group, in 16 bytes that are repeated as often as they fit; scales are signed. ``scale_places``
    and ``minimum_places`` say which byte is whose. They count ``scale_unit`` times the first of
    ``factors(base)``, and minus ``minimum_unit`` times the second. ``pieces(base, half, like)``:
    the quants as 16-byte pieces, from number ``half`` on in the format's order of blocks; without
    an order they are read block by block. ``signs(base, half, like)``, of magnitudes: a bit for
    each of them, set where a weight is negative. ``two_by_two[2 * i + j](base, like)``, where half
    blocks are added up before they are scaled: the quants of the blocks 4 * i + j and,
    ``SECOND_UP`` bits above them, 4 * i + j + 2; their bytes' other bits may be anything.
    """

    scales: Reader
    factors: Reader
    scale_unit: float = 1.0
    pieces: Reader | None = None
    minimums: Reader | None = None
    minimum_unit: float = 1.0
    scale_places: tuple[int, ...] = ONE_BYTE_EACH
    minimum_places: tuple[int, ...] = ONE_BYTE_EACH
    signs: Reader | None = None
    two_by_two: tuple[Reader, ...] = ()


def numbers_of(tensor_format: Format) -> Quants:
    """What the numbers of a quantized format mean."""
    assert tensor_format.quants is not None, tensor_format
    return tensor_format.quants


@dataclass(frozen=True)
class FormatCode:
    """Functions that read a format, and what its record says of its numbers."""

    format: Format

    @property
    def numbers(self) -> Quants:
        """What the numbers of the format's blocks mean."""
        return numbers_of(self.format)

    @property
    def group_size(self) -> int:
        """Weights that share a scale."""
        return self.numbers.group_size

    @property
    def has_minimum(self) -> bool:
        """Whether a group has a minimum of its own."""
        return self.numbers.has_minimum

    @property
    def is_wide(self) -> bool:
        """Whether weights have eight bits."""
        return self.numbers.is_wide


@dataclass(frozen=True)
class BlockCode(FormatCode):
    """The functions that read one format, to be called from kernels.

    ``quants[half](row, block, like)``: the bytes of the first or last 16 weights of every block,
    unsigned, or ``as_weights`` where they are ``wide`` (eight bits).
    ``scale[half](row, block, like)`` and ``minimum[half](row, block, like, scale)``: f32, four
    lanes a block; the halves share them where the group size is 32 rather than 16.
    ``of_two_rows(row, next_row, block, like)``, of formats of which two rows share their vectors:
    a tuple of the scales of both, two lanes for either of every four, and of the minimums if there
    are any. Wide weights are ``negatable`` if none is -128.
    """

    quants: tuple[Reader, Reader]
    scale: tuple[Reader, Reader]
    minimum: tuple[Reader, Reader]
    of_two_rows: Reader | None = None
    super_block: SuperBlock | None = None
    is_negatable: bool = False

    def __post_init__(self) -> None:
        """Check that the eight products of a lane fit into 16 bits before anything is taken off."""
        if self.of_two_rows and not self.is_wide and 8 * 127 * self.numbers.largest >= 1 << 15:
            raise ValueError(f"quants of {self.format!r} overflow")

    @property
    def centre(self) -> int:
        """What is taken off every quant, where that is all that the minimum does."""
        return 0 if self.has_minimum else self.numbers.centre


def constant(number: float) -> Reader:
    """A function that gives the number as f32."""
    value = np.float32(number)

    def give():
        return value

    return device(give)


def minimum_code(
    name: str,
    quants: tuple[Reader, Reader],
    scale: Reader,
    minimum: Reader,
    of_two_rows: Reader,
) -> BlockCode:
    """A format of blocks of 32 that stores a minimum beside each scale."""
    readers = (quants, (scale, scale), (minimum, minimum))
    return BlockCode(FORMATS_BY_NAME[name], *readers, of_two_rows)


def offset_code(
    name: str,
    quants: tuple[Reader, Reader],
    scale: Reader,
    of_two_rows: Reader | None = None,
    *,
    is_negatable: bool = False,
) -> BlockCode:
    """A format of blocks of 32 whose minimum is a constant times the scale."""
    minimum = _times_scale(_offset_of(FORMATS_BY_NAME[name]))
    readers = (quants, (scale, scale), (minimum, minimum))
    return BlockCode(FORMATS_BY_NAME[name], *readers, of_two_rows, is_negatable=is_negatable)


def super_block_code(
    name: str,
    quants: tuple[Reader, Reader],
    super_block: SuperBlock,
    *,
    is_negatable: bool = False,
) -> BlockCode:
    """A format of super-blocks, whose groups have small integers for scale and minimum."""
    tensor_format = FORMATS_BY_NAME[name]
    num_bytes, groups = tensor_format.block_bytes, 32 // numbers_of(tensor_format).group_size
    firsts = (0, 1 % groups)
    low, high = (_scale_of(super_block, num_bytes, first, groups) for first in firsts)
    if numbers_of(tensor_format).has_minimum:
        minimums = tuple(_minimum_of(super_block, num_bytes, first, groups) for first in firsts)
    else:
        minimums = (_times_scale(_offset_of(tensor_format)),) * 2
    readers = (quants, (low, high), (minimums[0], minimums[1]))
    return BlockCode(tensor_format, *readers, super_block=super_block, is_negatable=is_negatable)


def _offset_of(tensor_format: Format) -> Reader:
    """What is taken off every quant, or off every weight of eight bits as its tier reads it."""
    numbers = numbers_of(tensor_format)
    return weight_bias if numbers.is_wide else constant(numbers.centre)


def _scale_of(parts: SuperBlock, num_bytes: int, first: int, step: int) -> Reader:
    """Scales as f32, four lanes a block: that of group ``first`` and each ``step``-th."""
    scales_of, factors = parts.scales, parts.factors
    unit, place_of = np.float32(parts.scale_unit * BYTE_UNIT), _place_of(parts.scale_places)

    def scale(row, block, like):
        base = row + block // SUPER_BLOCK * num_bytes
        place = place_of(first + block % SUPER_BLOCK * step)
        wide = widen_signed(scales_of(base, like), place, step, like)
        return mul(wide, splat_f32(factors(base)[0] * unit, like))

    return device(scale)


def _minimum_of(parts: SuperBlock, num_bytes: int, first: int, step: int) -> Reader:
    """Minimums likewise."""
    minimums_of, factors = parts.minimums, parts.factors
    unit = np.float32(-parts.minimum_unit * UNSIGNED_UNIT)
    place_of = _place_of(parts.minimum_places)

    def minimum(row, block, like, scale):
        base = row + block // SUPER_BLOCK * num_bytes
        place = place_of(first + block % SUPER_BLOCK * step)
        wide = widen_unsigned(minimums_of(base, like), place, step, like)
        return mul(wide, splat_f32(factors(base)[1] * unit, like))

    return device(minimum)


def _place_of(places: tuple[int, ...]) -> Reader:
    """A function from a group's number to its place, one of 16."""
    packed = sum(place << 4 * group for group, place in enumerate(places))
    packed -= (packed >> 63) << 64

    def place_of(group):
        return (packed >> 4 * group) & 15

    return device(place_of)


def _times_scale(offset: Reader) -> Reader:
    """The minimum that takes ``offset()`` off every quant."""

    def minimum(row, block, like, scale):
        return mul(scale, splat_f32(-offset(), like))

    return device(minimum)
