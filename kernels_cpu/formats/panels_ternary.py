"""Reads rows of IQ1_S, IQ1_M, TQ1_0 and TQ2_0 side by side, one row in each lane.

The layout of a super-block is described in ``blocks_ternary``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edgellama.kernels_cpu.formats.block_code import Reader
from edgellama.kernels_cpu.formats.blocks_ternary import TERNARY_CODES
from edgellama.kernels_cpu.formats.panel_code import PanelCode, leave_scale
from edgellama.kernels_cpu.formats.panels_codebooks import PARTS_OF_HALVES, leave_odd, with_double
from edgellama.kernels_cpu.formats.panels_kquants import twice_two
from edgellama.kernels_cpu.layouts import HALVES
from edgellama.kernels_cpu.simd.arithmetic import mul
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.integers import merge
from edgellama.kernels_cpu.simd.pieces_in_lanes import define_words_of
from edgellama.kernels_cpu.simd.rows_in_lanes import (
    half_of_words,
    halves_at,
    load_words,
    unsigned_byte,
    word_bits_at,
    words_at,
)
from edgellama.kernels_cpu.simd.vectors import f32_zeros, f32_zeros_4, splat_f32

EIGHTH = np.float32(1 / 8)


@device
def eighth(factor):
    """An eighth of what rows have, and twice as much."""
    return with_double(mul(factor, splat_f32(EIGHTH, f32_zeros())))


@device
def leave_block(room, block, words, factors):
    """The scale of a block, for both of its halves."""
    scale = unsigned_byte(words, 0)
    leave_odd(room, 2 * block, scale, factors)
    leave_odd(room, 2 * block + 1, scale, factors)


@device
def iq1_s_scales(base, steps, num_blocks, room):
    factors = eighth(halves_at(base, steps))
    first, second, third, last = load_words(base + 34, steps)
    leave_block(room, 0, word_bits_at(first, 12, 7), factors)
    leave_block(room, 1, word_bits_at(first, 28, 7), factors)
    leave_block(room, 2, word_bits_at(second, 12, 7), factors)
    leave_block(room, 3, word_bits_at(second, 28, 7), factors)
    leave_block(room, 4, word_bits_at(third, 12, 7), factors)
    leave_block(room, 5, word_bits_at(third, 28, 7), factors)
    leave_block(room, 6, word_bits_at(last, 12, 7), factors)
    leave_block(room, 7, word_bits_at(last, 28, 7), factors)


@device
def leave_eight(room, group, words, factors):
    """Eight scales of three bits, four in each half of the words."""
    leave_odd(room, group, unsigned_byte(word_bits_at(words, 0, 7), 0), factors)
    leave_odd(room, group + 1, unsigned_byte(word_bits_at(words, 3, 7), 0), factors)
    leave_odd(room, group + 2, unsigned_byte(word_bits_at(words, 6, 7), 0), factors)
    leave_odd(room, group + 3, unsigned_byte(word_bits_at(words, 9, 7), 0), factors)
    leave_odd(room, group + 4, unsigned_byte(word_bits_at(words, 16, 7), 0), factors)
    leave_odd(room, group + 5, unsigned_byte(word_bits_at(words, 19, 7), 0), factors)
    leave_odd(room, group + 6, unsigned_byte(word_bits_at(words, 22, 7), 0), factors)
    leave_odd(room, group + 7, unsigned_byte(word_bits_at(words, 25, 7), 0), factors)


@device
def iq1_m_scales(base, steps, num_blocks, room):
    low, high = words_at(base + 48, steps), words_at(base + 52, steps)
    lower = merge(word_bits_at(low, 12, 0xF), word_bits_at(low, 24, 0xF0))
    upper = merge(word_bits_at(high, 4, 0xF00), word_bits_at(high, 16, 0xF000))
    factors = eighth(half_of_words(merge(lower, upper), 0))
    leave_eight(room, 0, low, factors)
    leave_eight(room, 8, high, factors)


def _define_one_scale(at: int) -> Reader:
    """One half for all weights."""

    def scales(base, steps, num_blocks, room):
        scale = halves_at(base + at, steps)
        for group in range(HALVES):
            leave_scale(room, group, scale)

    return device(scales)


def _panels(name: str, scales: Reader) -> PanelCode:
    """A format by how its scales are read; its quants are read row by row."""
    parts = TERNARY_CODES[name].super_block
    assert parts is not None, name
    pieces_of = parts.pieces

    @device
    def piece_of_row(base, half):
        return pieces_of(base, half, f32_zeros_4())

    words_of = define_words_of(piece_of_row)

    def quants(base, steps, part, room):
        return (
            words_of(base, 4 * part, steps), words_of(base, 4 * part + 1, steps),
            words_of(base, 4 * part + 2, steps), words_of(base, 4 * part + 3, steps),
        )  # fmt: skip

    code = TERNARY_CODES[name].format
    return PanelCode(code, PARTS_OF_HALVES, scales, device(quants), twice_two, 1)


TERNARY_PANELS: Mapping[str, PanelCode] = MappingProxyType(
    {
        "IQ1_S": _panels("IQ1_S", iq1_s_scales),
        "IQ1_M": _panels("IQ1_M", iq1_m_scales),
        "TQ1_0": _panels("TQ1_0", _define_one_scale(52)),
        "TQ2_0": _panels("TQ2_0", _define_one_scale(64)),
    }
)
"""Per format name, how its blocks are read."""
