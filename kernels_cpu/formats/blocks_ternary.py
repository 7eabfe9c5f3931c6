"""Super-blocks of weights that are -1, 0 or 1, or close to these: IQ1_S, IQ1_M, TQ1_0, TQ2_0.

The layouts are those of ggml. As with Q6_K, quants are 32 larger than the numbers they stand for,
and they lie in order. ``base`` is the address of a super-block; ``place`` counts its vectors of
eight weights, ``half`` its half blocks of 16, and ``block`` the blocks of 32 in the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.formats.block_code import BlockCode, Reader, SuperBlock, super_block_code
from edgellama.kernels_cpu.formats.codebooks import IQ1_GRID
from edgellama.kernels_cpu.layouts import SUPER_BLOCK
from edgellama.kernels_cpu.simd.codebooks import (
    define_chosen_pieces,
    define_eleven_bits_from,
    define_odd_fields,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.halves import half_of_bits, read_half
from edgellama.kernels_cpu.simd.integers import (
    add_to_bytes,
    keep_bits,
    load_chosen_pieces,
    piece_of,
    repeat_piece,
    shift_pieces,
)
from edgellama.kernels_cpu.simd.sign_bits import (
    one_more_or_less,
)
from edgellama.kernels_cpu.simd.ternary import trits_of_pieces
from edgellama.kernels_cpu.simd.vectors import read_i64, read_u8, read_u16, read_u32, width_of
from edgellama.quant.formats import FORMATS_BY_NAME

BLOCK_FIRST = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)
"""Where the scales of half blocks lie that blocks have in common."""
ODD_BYTES, ODD_HALVES = 0x0101010101010101, 0x0001000100010001
LESS_ONE = 31
"""What makes quants of numbers from 0 that stand for one less."""


def _factor_at(offset: int) -> Reader:
    """The half at ``base + offset``."""

    def factors(base):
        factor = read_half(base + offset)
        return factor, factor

    return device(factors)


# IQ1_S: half d; 32 bytes with the lower eight bits of numbers; for each block 16 bits: four times
# three upper bits, the scale s, and whether to take 1 off rather than add it;
# weight = (8 * value ± 1) * d * (2 s + 1) / 8


@device
def iq1_s_number(base, place):
    upper = read_u16(base + 34 + 2 * (place >> 2)) >> 3 * (place & 3)
    return read_u8(base + 2 + place) | (upper & 7) << 8


iq1_s_values = define_chosen_pieces(IQ1_GRID, iq1_s_number, define_eleven_bits_from(2, 34, 3))


@device
def of_block(base, block):
    """32 bits that say whether to take 1 off a block's weights."""
    return -(read_u16(base + 34 + 2 * block) >> 15) & 0xFFFFFFFF


@device
def iq1_s_pieces(base, half, like):
    block = half >> 1
    is_less = of_block(base, block)
    if width_of(like) == 16:
        is_less |= of_block(base, block + 1) << 32
    return one_more_or_less(iq1_s_values(base, half, like), is_less)


odd_scales_of_blocks = define_odd_fields(16, 12, 3)


@device
def iq1_s_scales(base, like):
    return odd_scales_of_blocks(base + 34, like)


# IQ1_M: 32 bytes with the lower eight bits of numbers; four bits for each vector: three upper
# bits, and whether to take 1 off; four words of 16 bits with four scales s of three bits each and,
# above them, a quarter of the half d; weight as in IQ1_S


@device
def iq1_m_number(base, place):
    upper = read_u8(base + 32 + (place >> 1)) >> 4 * (place & 1)
    return read_u8(base + place) | (upper & 7) << 8


iq1_m_values = define_chosen_pieces(IQ1_GRID, iq1_m_number, define_eleven_bits_from(0, 32, 4))


@device
def iq1_m_pieces(base, half, like):
    flags = read_u32(base + 32 + half)
    flags = (flags | flags << 16) & 0x0000FFFF0000FFFF
    flags |= flags << 8
    is_less = (flags >> 3 & ODD_HALVES) * 0xFF | ((flags >> 7 & ODD_HALVES) * 0xFF) << 8
    return one_more_or_less(iq1_m_values(base, half, like), is_less)


@device
def eight_times_three(words):
    """2 n + 1 of the lower 12 bits of two words of 16, three bits a number, as bytes."""
    pairs = (words | words << 16) & 0x0000FFFF0000FFFF
    numbers = pairs & 0x0000000700000007 | pairs << 5 & 0x0000070000000700
    numbers |= pairs << 10 & 0x0007000000070000 | pairs << 15 & 0x0700000007000000
    return numbers << 1 | ODD_BYTES


@device
def iq1_m_scales(base, like):
    low, high = read_u32(base + 48), read_u32(base + 52)
    return repeat_piece(piece_of(eight_times_three(low), eight_times_three(high)), like)


@device
def iq1_m_factors(base):
    words = read_i64(base + 48)
    bits = words >> 12 & 0xF | words >> 24 & 0xF0 | words >> 36 & 0xF00 | words >> 48 & 0xF000
    factor = half_of_bits(bits)
    return factor, factor


# TQ2_0: 64 bytes of which 32 hold four blocks, two bits a weight, the lowest first; half d;
# weight = (q - 1) * d


@device
def tq2_0_pieces(base, half, like):
    quants = base + 32 * (half >> 3) + 16 * (half & 1)
    shift = half & 6
    pieces = load_chosen_pieces(quants, 0, 1, 0, 1, like)
    return add_to_bytes(keep_bits(shift_pieces(pieces, shift, shift, shift + 2, shift + 2), 3), 31)


@device
def ones(base, like):
    return repeat_piece(piece_of(ODD_BYTES, ODD_BYTES), like)


# TQ1_0: 32 bytes of five weights each, then 16 of five, then 4 of four; half d: the first weights
# of all bytes, then the second ones. A byte holds them as a fraction of base 3;
# weight = (q - 1) * d


@device
def tq1_0_pieces(base, half, like):
    return add_to_bytes(trits_of_pieces(base, half, like), 31)


def _define_half(name: str, pieces_of: Reader, half: int) -> Reader:
    """The quants of the first or last 16 weights of a block."""
    num_bytes = FORMATS_BY_NAME[name].block_bytes

    def quants(row, block, like):
        base, number = row + block // SUPER_BLOCK * num_bytes, block % SUPER_BLOCK * 2 + half
        return pieces_of(base, number, like)

    return device(quants)


def _code(
    name: str,
    pieces: Reader,
    scales: Reader,
    factors: Reader,
    unit: float,
    places: tuple[int, ...] = tuple(range(16)),
) -> BlockCode:
    """A format by what its bytes are."""
    halves = _define_half(name, pieces, 0), _define_half(name, pieces, 1)
    return super_block_code(
        name, halves, SuperBlock(scales, factors, unit, pieces, scale_places=places)
    )


TERNARY_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        "IQ1_S": _code("IQ1_S", iq1_s_pieces, iq1_s_scales, _factor_at(0), 1 / 8, BLOCK_FIRST),
        "IQ1_M": _code("IQ1_M", iq1_m_pieces, iq1_m_scales, iq1_m_factors, 1 / 8),
        "TQ1_0": _code("TQ1_0", tq1_0_pieces, ones, _factor_at(52), 1.0),
        "TQ2_0": _code("TQ2_0", tq2_0_pieces, ones, _factor_at(64), 1.0),
    }
)
"""Per format name, how its blocks are read."""
