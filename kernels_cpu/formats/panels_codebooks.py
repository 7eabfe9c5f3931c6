"""Reads rows of IQ2_XXS to IQ3_S side by side, one row in each lane.

The layout of a super-block is described in ``blocks_codebooks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edgellama.kernels_cpu.formats.block_code import Reader
from edgellama.kernels_cpu.formats.blocks_codebooks import CODEBOOK_CODES, define_as_quants
from edgellama.kernels_cpu.formats.panel_code import (
    PanelCode,
    for_words,
    leave_scale,
    twice,
)
from edgellama.kernels_cpu.formats.panels_kquants import twice_two
from edgellama.kernels_cpu.layouts import SUPER_BLOCK
from edgellama.kernels_cpu.simd.arithmetic import fma, mul
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.pieces_in_lanes import define_signed_words
from edgellama.kernels_cpu.simd.rows_in_lanes import (
    bits_at,
    halves_at,
    load_words,
    unsigned_byte,
    words_at,
)
from edgellama.kernels_cpu.simd.vectors import f32_zeros, f32_zeros_4, splat_f32

PARTS_OF_HALVES = 4
"""Of a super-block whose scales are for 16 weights."""


def _define_quants(name: str) -> Reader:
    """The quants of two or four half blocks."""
    parts, for_four = CODEBOOK_CODES[name].super_block, CODEBOOK_CODES[name].group_size == 16
    assert parts is not None, name
    pieces_of, signs_of = parts.pieces, parts.signs

    @device
    def piece_of_row(base, half):
        return pieces_of(base, half, f32_zeros_4())

    @device
    def signs_of_row(base, half):
        return signs_of(base, half, f32_zeros_4())

    words_of = define_signed_words(piece_of_row, signs_of_row)
    as_quants = for_words(define_as_quants(name))

    def two(base, steps, part, room):
        first, last = words_of(base, 2 * part, steps), words_of(base, 2 * part + 1, steps)
        return as_quants(first), as_quants(last)

    def four(base, steps, part, room):
        first, second = words_of(base, 4 * part, steps), words_of(base, 4 * part + 1, steps)
        third, last = words_of(base, 4 * part + 2, steps), words_of(base, 4 * part + 3, steps)
        return as_quants(first), as_quants(second), as_quants(third), as_quants(last)

    return device(four if for_four else two)


@device
def with_double(factor):
    """What ``leave_odd`` takes of a factor."""
    return factor, mul(factor, splat_f32(np.float32(2.0), factor))


@device
def factors_at(base, steps, unit):
    """The factor of scales in every row, in units of the format, and twice as much."""
    return with_double(mul(halves_at(base, steps), splat_f32(unit, f32_zeros())))


@device
def leave_odd(room, group, nibble, factors):
    """The scale that a nibble stands for."""
    leave_scale(room, group, fma(nibble, factors[1], factors[0]))


@device
def leave_pairs(room, group, words, factors):
    """Eight groups' scales, those of neighbours in a byte."""
    low, high = bits_at(words, 0, 15), bits_at(words, 4, 15)
    leave_odd(room, group, unsigned_byte(low, 0), factors)
    leave_odd(room, group + 1, unsigned_byte(high, 0), factors)
    leave_odd(room, group + 2, unsigned_byte(low, 1), factors)
    leave_odd(room, group + 3, unsigned_byte(high, 1), factors)
    leave_odd(room, group + 4, unsigned_byte(low, 2), factors)
    leave_odd(room, group + 5, unsigned_byte(high, 2), factors)
    leave_odd(room, group + 6, unsigned_byte(low, 3), factors)
    leave_odd(room, group + 7, unsigned_byte(high, 3), factors)


@device
def leave_top(room, block, words, factors):
    """The scale in the upper four bits of words."""
    leave_odd(room, block, unsigned_byte(bits_at(words, 28, 15), 0), factors)


def _define_scales_in_pairs(at: int, num_words: int, unit: float) -> Reader:
    """Nibbles in so many words from a byte on."""
    factor_unit = np.float32(unit)

    def scales(base, steps, num_blocks, room):
        factors = factors_at(base, steps, factor_unit)
        for word in range(num_words):
            leave_pairs(room, 8 * word, words_at(base + at + 4 * word, steps), factors)

    return device(scales)


EIGHTH, QUARTER = np.float32(1 / 8), np.float32(1 / 4)


@device
def iq2_xxs_scales(base, steps, num_blocks, room):
    factors = factors_at(base, steps, EIGHTH)
    for block in range(0, SUPER_BLOCK, 2):
        _, first, _, second = load_words(base + 2 + 8 * block, steps)
        leave_top(room, block, first, factors)
        leave_top(room, block + 1, second, factors)


@device
def iq3_xxs_scales(base, steps, num_blocks, room):
    factors = factors_at(base, steps, QUARTER)
    for block in range(0, SUPER_BLOCK, 4):
        first, second, third, last = load_words(base + 66 + 4 * block, steps)
        leave_top(room, block, first, factors)
        leave_top(room, block + 1, second, factors)
        leave_top(room, block + 2, third, factors)
        leave_top(room, block + 3, last, factors)


def _panels(name: str, scales: Reader) -> PanelCode:
    """A format by how its scales are read."""
    code = CODEBOOK_CODES[name]
    quants = _define_quants(name)
    if code.group_size == 16:
        return PanelCode(code.format, PARTS_OF_HALVES, scales, quants, twice_two, 1)
    return PanelCode(code.format, SUPER_BLOCK, scales, quants, twice, 1)


CODEBOOK_PANELS: Mapping[str, PanelCode] = MappingProxyType(
    {
        "IQ2_XXS": _panels("IQ2_XXS", iq2_xxs_scales),
        "IQ2_XS": _panels("IQ2_XS", _define_scales_in_pairs(66, 2, 1 / 8)),
        "IQ2_S": _panels("IQ2_S", _define_scales_in_pairs(74, 2, 1 / 8)),
        "IQ3_XXS": _panels("IQ3_XXS", iq3_xxs_scales),
        "IQ3_S": _panels("IQ3_S", _define_scales_in_pairs(106, 1, 1.0)),
    }
)
"""Per format name, how its blocks are read."""
