"""What ``gemm`` and ``skinny`` ask of a block format, and the code that all formats share.

In every format a weight is quant * scale + minimum. The minimum is either stored, or minus
``centre`` times the scale. Kernels read one segment at a time, of as many rows as a vector has
lanes. A segment is up to eight blocks of 32 weights, that is a super-block: first its scales are
written to ``room``, then its quants are read in parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgellama.kernels_cpu.formats.block_code import FormatCode, Reader
from edgellama.kernels_cpu.layouts import BLOCK, HALVES, SUPER_BLOCK
from edgellama.kernels_cpu.simd.arithmetic import fma
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.integers import merge
from edgellama.kernels_cpu.simd.rows_in_lanes import bits_at
from edgellama.kernels_cpu.simd.vectors import f32_zeros, lane_count, load_f32, splat_f32, store
from edgellama.quant.formats import MAX_PACKED_SUM

MINIMUMS_AT, SPARE_AT, ROOM_VECTORS = HALVES, 2 * HALVES, 2 * HALVES + SUPER_BLOCK
"""Of ``room``, in vectors: where minimums begin, and what a format leaves for itself."""


@dataclass(frozen=True)
class PanelCode(FormatCode):
    """The functions that read rows of one format side by side, to be called from kernels.

    ``scales(base, steps, num_blocks, room)`` leaves f32 vectors with the scale of every group of
    weights of the segment at ``base``, and with the minimum if there is one.
    ``quants(base, steps, part, room)``: unsigned bytes, or ``as_weights`` where they are ``wide``
    (eight bits): for each of ``halves_each`` half blocks four vectors, a word of each row in
    every lane. The first is ``first_half(part)``, the next ones ``half_step`` behind each other.
    """

    num_parts: int
    scales: Reader
    quants: Reader
    first_half: Reader
    half_step: int

    def __post_init__(self) -> None:
        """Check that products of half a group fit into 16 bits."""
        farthest = max(self.centre, self.numbers.largest - self.centre)
        if not self.is_wide and 127 * farthest * self.group_size // 2 > MAX_PACKED_SUM:
            raise ValueError(f"quants of {self.format!r} overflow in groups")

    @property
    def centre(self) -> int:
        """What the matrix kernels take off every quant.

        With a minimum that keeps sums small, and else it is all that the minimum does.
        """
        return self.numbers.centre

    @property
    def segment_bytes(self) -> int:
        """Bytes of a row in each segment."""
        return self.format.row_bytes(SUPER_BLOCK * BLOCK)

    @property
    def halves_each(self) -> int:
        """Half blocks of a part."""
        return HALVES // self.num_parts

    @property
    def group_in_order(self) -> Reader:
        """Which group comes at a place in the order of the parts, in which sums are made."""
        return _as_counted if self.half_step == 1 else _as_parts_hold_them

    @property
    def part_bytes(self) -> int:
        """Bytes of a row in each part of a segment."""
        return self.segment_bytes // self.num_parts


@device
def _as_counted(number):
    return number


@device
def _as_parts_hold_them(number):
    """0 2 4 6 1 3 5 7, then the same of the second half of a super-block."""
    return number // 8 * 8 + number % 4 * 2 + number // 4 % 2


@device
def in_room(room, index):
    """The address of a vector of ``room``."""
    return room + index * 4 * lane_count()


@device
def leave_scale(room, group, scale):
    """The scale of a group of all rows."""
    store(in_room(room, group), scale)


@device
def leave_minimum(room, group, minimum):
    """The minimum of a group of all rows."""
    store(in_room(room, MINIMUMS_AT + group), minimum)


@device
def scale_at(room, group):
    """What ``leave_scale`` left."""
    return load_f32(in_room(room, group), f32_zeros())


@device
def minimum_at(room, group):
    """What ``leave_minimum`` left."""
    return load_f32(in_room(room, MINIMUMS_AT + group), f32_zeros())


def define_centred_scales(code: PanelCode) -> Reader:
    """``code.scales`` with the minimums of quants of which the centre is taken off."""
    if not (code.has_minimum and code.centre):
        return code.scales
    read_scales, centre = code.scales, np.float32(code.centre)
    groups_per_block = 32 // code.group_size

    def centred_scales(base, steps, num_blocks, room):
        read_scales(base, steps, num_blocks, room)
        for group in range(num_blocks * groups_per_block):
            scale = scale_at(room, group)
            moved = fma(scale, splat_f32(centre, scale), minimum_at(room, group))
            leave_minimum(room, group, moved)

    return device(centred_scales)


@device
def twice(part):
    """Parts of two half blocks."""
    return 2 * part


def for_words(function: Reader) -> Reader:
    """A device function: of a half block's four vectors what ``function`` makes of each."""

    def one(words):
        return function(words[0]), function(words[1]), function(words[2]), function(words[3])

    return device(one)


def for_pairs(function: Reader) -> Reader:
    """The same of two half blocks, for a function of two vectors."""

    def one(words, others):
        return (
            function(words[0], others[0]), function(words[1], others[1]),
            function(words[2], others[2]), function(words[3], others[3]),
        )  # fmt: skip

    return device(one)


def define_bits(amount: int, mask: int) -> Reader:
    """A device function: ``bits_at`` of a half block's four vectors."""

    @device
    def bits(v):
        return bits_at(v, amount, mask)

    return for_words(bits)


low_nibbles, high_nibbles, merge_words = define_bits(0, 15), define_bits(4, 15), for_pairs(merge)


def for_each_half(code: PanelCode, function: Reader) -> Reader:
    """A device function: ``function`` of every half block of a part, and of its number."""
    first_half, step = code.first_half, code.half_step

    def two(halves, part, *rest):
        half = first_half(part)
        function(halves[0], half, *rest)
        function(halves[1], half + step, *rest)

    def four(halves, part, *rest):
        half = first_half(part)
        function(halves[0], half, *rest)
        function(halves[1], half + step, *rest)
        function(halves[2], half + 2 * step, *rest)
        function(halves[3], half + 3 * step, *rest)

    return device(two if code.halves_each == 2 else four)
