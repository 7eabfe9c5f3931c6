"""Super-blocks whose numbers choose vectors of a codebook: IQ2_XXS to IQ3_S, laid out as in ggml.

A vector has eight magnitudes (four with IQ3), and the signs are stored separately. Where ggml
stores seven of eight signs, the last sign makes the number of minus signs even. All scales are odd
numbers. ``base`` is the address of a super-block; ``place`` counts its vectors, ``half`` its half
blocks of 16 weights, and ``block`` the blocks of 32 weights in the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from edgellama.kernels_cpu.formats.block_code import (
    BlockCode,
    Reader,
    SuperBlock,
    numbers_of,
    super_block_code,
)
from edgellama.kernels_cpu.formats.codebooks import (
    IQ2_S_GRID,
    IQ2_XS_GRID,
    IQ2_XXS_GRID,
    IQ3_S_GRID,
    IQ3_XXS_GRID,
)
from edgellama.kernels_cpu.layouts import SUPER_BLOCK
from edgellama.kernels_cpu.simd.codebooks import (
    Table,
    define_bytes_from,
    define_chosen_pieces,
    define_lower_halves_from,
    define_odd_fields,
    define_ten_bits_from,
    define_words_from,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.halves import read_half
from edgellama.kernels_cpu.simd.integers import add_to_bytes, piece_of, repeat_piece
from edgellama.kernels_cpu.simd.sign_bits import (
    define_sevens_of_halves,
    define_sevens_of_words,
    define_signs,
    four_times_seven,
    negate_where,
    read_bits,
    with_parity,
)
from edgellama.kernels_cpu.simd.vectors import read_i64, read_u8, read_u16, read_u32, width_of
from edgellama.kernels_cpu.simd.weight_bytes import as_weights
from edgellama.quant.formats import FORMATS_BY_NAME

NIBBLES, ODD = 0x0F0F0F0F0F0F0F0F, 0x0101010101010101
IN_TWO_PIECES = (0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15)
IN_TWO_WORDS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where the scales of groups lie once their low nibbles stand before the high ones."""


@device
def factor_first(base):
    """The half that begins the super-block."""
    factor = read_half(base)
    return factor, factor


@device
def odd_nibbles(low, high, like):
    """2 n + 1 of nibbles in two words of 64 bits."""
    return repeat_piece(piece_of(low << 1 | ODD, high << 1 | ODD), like)


@device
def sixteen_scales(base, like):
    """Eight bytes of nibbles, those of neighbouring groups in a byte."""
    nibbles = read_i64(base)
    return odd_nibbles(nibbles & NIBBLES, nibbles >> 4 & NIBBLES, like)


@device
def as_far_as(bits, half, like):
    """Of the bits of a block those from ``half`` on."""
    return bits >> 16 * (half & 1) if width_of(like) == 4 else bits


# IQ2_XXS: half d; for each block 4 bytes of numbers, then a word of four times seven signs and,
# above them, the scale s; weight = value * d * (2 s + 1) / 8


@device
def iq2_xxs_number(base, place):
    return read_u8(base + 2 + 8 * (place >> 2) + (place & 3))


@device
def iq2_xxs_signs(base, half, like):
    return as_far_as(four_times_seven(read_u32(base + 6 + 8 * (half >> 1))), half, like)


tops_of_pairs, tops_of_words = define_odd_fields(64, 60, 4), define_odd_fields(32, 28, 4)


@device
def iq2_xxs_scales(base, like):
    return tops_of_pairs(base + 2, like)


# IQ2_XS: half d; 16 bits for each vector: nine of its number, seven signs; 8 bytes of scales of
# 16 weights; weight as in IQ2_XXS


@device
def iq2_xs_number(base, place):
    return read_u16(base + 2 + 2 * place)


@device
def seven_of_sixteen(words):
    """The upper seven bits of four words of 16, as bytes of 32 bits."""
    signs = words >> 9 & 0x007F007F007F007F
    signs = (signs | signs >> 8) & 0x0000FFFF0000FFFF
    return (signs | signs >> 16) & 0xFFFFFFFF


@device
def iq2_xs_signs(base, half, like):
    words = base + 2 + 4 * half
    if width_of(like) == 4:
        return with_parity(seven_of_sixteen(read_u32(words)))
    return with_parity(seven_of_sixteen(read_i64(words)))


@device
def iq2_xs_scales(base, like):
    return sixteen_scales(base + 66, like)


# IQ2_S: half d; 32 bytes with the lower eight bits of numbers; 32 of signs; 8 with the upper two
# bits; 8 of scales as in IQ2_XS


@device
def iq2_s_number(base, place):
    upper = read_u8(base + 66 + (place >> 2)) << 8 - 2 * (place & 3)
    return read_u8(base + 2 + place) | upper & 0x300


@device
def iq2_s_signs(base, half, like):
    return read_bits(base + 34 + 2 * half, like)


@device
def iq2_s_scales(base, like):
    return sixteen_scales(base + 74, like)


# IQ3_XXS: half d; 64 bytes of numbers; for each block a word as in IQ2_XXS;
# weight = value * d * (2 s + 1) / 4


@device
def iq3_xxs_number(base, place):
    return read_u8(base + 2 + place)


@device
def iq3_xxs_signs(base, half, like):
    return as_far_as(four_times_seven(read_u32(base + 66 + 4 * (half >> 1))), half, like)


@device
def iq3_xxs_scales(base, like):
    return tops_of_words(base + 66, like)


# IQ3_S: half d; 64 bytes with the lower eight bits of numbers, 8 with the ninth; 32 of signs;
# 4 of scales; weight = value * d * (2 s + 1)


@device
def iq3_s_number(base, place):
    ninth = read_u8(base + 66 + (place >> 3)) << 8 - (place & 7)
    return read_u8(base + 2 + place) | ninth & 0x100


@device
def iq3_s_signs(base, half, like):
    return read_bits(base + 74 + 2 * half, like)


@device
def iq3_s_scales(base, like):
    nibbles = read_u32(base + 106)
    nibbles = (nibbles | nibbles << 28) & NIBBLES
    return odd_nibbles(nibbles, nibbles, like)


def define_as_quants(name: str) -> Reader:
    """A function that makes the quants of a format of signed bytes."""
    numbers = numbers_of(FORMATS_BY_NAME[name])
    if numbers.is_wide:
        return as_weights
    centre = numbers.centre

    def as_quants(v):
        return add_to_bytes(v, centre)

    return device(as_quants)


def _define_half(name: str, parts: SuperBlock, half: int) -> Reader:
    """The quants of the first or last 16 weights of a block."""
    pieces_of, signs_of, as_quants = parts.pieces, parts.signs, define_as_quants(name)
    num_bytes = FORMATS_BY_NAME[name].block_bytes

    def quants(row, block, like):
        base, number = row + block // SUPER_BLOCK * num_bytes, block % SUPER_BLOCK * 2 + half
        pieces, signs = pieces_of(base, number, like), signs_of(base, number, like)
        return as_quants(negate_where(pieces, signs))

    return device(quants)


def _code(
    table: Table,
    number_at: Reader,
    numbers_from: Callable[..., Any],
    signs: Reader,
    scales: Reader,
    unit: float,
    places: tuple[int, ...] = tuple(range(8)),
) -> BlockCode:
    """A format by what its bytes are."""
    pieces = define_chosen_pieces(table, number_at, numbers_from)
    parts = SuperBlock(scales, factor_first, unit, pieces, scale_places=places, signs=signs)
    halves = _define_half(table.name, parts, 0), _define_half(table.name, parts, 1)
    return super_block_code(table.name, halves, parts)


CODEBOOK_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        code.format.name: code
        for code in (
            _code(
                IQ2_XXS_GRID,
                iq2_xxs_number,
                define_lower_halves_from(2),
                define_signs(iq2_xxs_signs, define_sevens_of_words(2, 64)),
                iq2_xxs_scales,
                1 / 8,
            ),
            _code(
                IQ2_XS_GRID,
                iq2_xs_number,
                define_words_from(2),
                define_signs(iq2_xs_signs, define_sevens_of_halves(2)),
                iq2_xs_scales,
                1 / 8,
                IN_TWO_PIECES,
            ),
            _code(
                IQ2_S_GRID,
                iq2_s_number,
                define_ten_bits_from(2, 66),
                iq2_s_signs,
                iq2_s_scales,
                1 / 8,
                IN_TWO_PIECES,
            ),
            _code(
                IQ3_XXS_GRID,
                iq3_xxs_number,
                define_bytes_from(2),
                define_signs(iq3_xxs_signs, define_sevens_of_words(66, 32)),
                iq3_xxs_scales,
                1 / 4,
            ),
            _code(
                IQ3_S_GRID,
                iq3_s_number,
                define_bytes_from(2, 66),
                iq3_s_signs,
                iq3_s_scales,
                1.0,
                IN_TWO_WORDS,
            ),
        )
    }
)
"""Per format name, how its blocks are read."""
