"""Super-blocks of 256 weights: Q2_K to Q6_K, laid out as in ggml.

``block`` counts blocks of 32 weights in the row, and ``base`` is the address of a super-block.
Reading rows of these formats side by side is left to ``panels_kquants``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from edgellama.kernels_cpu.formats.block_code import (
    BlockCode,
    Reader,
    SuperBlock,
    super_block_code,
)
from edgellama.kernels_cpu.formats.block_orders import PLACES
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.half_totals import define_look_up_nibbles
from edgellama.kernels_cpu.simd.halves import read_second_half, read_two_halves
from edgellama.kernels_cpu.simd.integers import (
    keep_bits,
    keep_chosen_bits,
    load_chosen_pieces,
    low_nibbles,
    merge,
    piece_of,
    repeat_piece,
    rotate_pieces,
    shift_all,
    shift_pieces,
)
from edgellama.kernels_cpu.simd.vectors import load_bytes, read_i64, read_u32
from edgellama.quant.formats import PAIRS, QUARTERS

place_in_quarters, place_in_pairs = PLACES[QUARTERS], PLACES[PAIRS]


def _factor_at(offset: int) -> Reader:
    """The factor of scales at ``base + offset``, where there are no minimums."""
    before = offset - 2

    def factors(base):
        factor = read_second_half(base + before)
        return factor, factor

    return device(factors)


def _two_factors_at(offset: int) -> Reader:
    """The factors of scales and of minimums, one behind the other."""

    def factors(base):
        return read_two_halves(base + offset)

    return device(factors)


# Q2_K: 16 bytes with scale (low) and minimum of each 16 weights; 64 bytes of quants, where 32
# bytes hold four sub-blocks of 32, the lowest bits first; half d, half dmin;
# weight = q * d * s - dmin * m


def q2_k_quants(half):
    """Two bits of the first or last 16 weights of sub-blocks."""

    def quants(row, block, like):
        pieces = row + (block >> 3) * 84 + 16 + 32 * ((block & 7) >> 2)
        shift = 2 * (block & 3)
        pieces = load_chosen_pieces(pieces, half, half, half, half, like)
        return keep_bits(shift_pieces(pieces, shift, shift + 2, shift + 4, shift + 6), 3)

    return device(quants)


@device
def q2_k_scales(base, like):
    return low_nibbles(load_chosen_pieces(base, 0, 0, 0, 0, like))


@device
def q2_k_minimums(base, like):
    """Sixteen times each minimum."""
    return keep_bits(load_chosen_pieces(base, 0, 0, 0, 0, like), 0xF0)


@device
def field_pieces(quants, half, like):
    """Two bits of every byte of 64, the lowest first, at their place in the order."""
    place = place_in_quarters(half)
    pieces = load_chosen_pieces(quants + 16 * (half & 3), 0, 1, 2, 3, like)
    return keep_chosen_bits(shift_all(pieces, 2 * (half >> 2) - place), 3 << place)


@device
def q2_k_pieces(base, half, like):
    return field_pieces(base + 16, half, like)


# Q3_K: 32 bytes of third bits, the lowest for sub-block 0; 64 bytes of quants as in Q2_K;
# 12 bytes of 6-bit scales of 16 weights: the lower nibbles of 0 to 7 and of 8 to 15 in eight
# bytes, then the upper pairs of i, i + 4, i + 8, i + 12 in four; half d;
# weight = (q - 4) * d * (s - 32)


def q3_k_quants(half):
    """Three bits of the first or last 16 weights of sub-blocks."""

    def quants(row, block, like):
        base, first = row + (block >> 3) * 110, block & 7
        shift, up = 2 * (first & 3), 2 - first
        low = base + 32 + 32 * (first >> 2)
        low = load_chosen_pieces(low, half, half, half, half, like)
        low = keep_bits(shift_pieces(low, shift, shift + 2, shift + 4, shift + 6), 3)
        high = load_chosen_pieces(base, half, half, half, half, like)
        return merge(low, keep_bits(rotate_pieces(high, up, up - 1, up - 2, up - 3), 4))

    return device(quants)


@device
def q3_k_pieces(base, half, like):
    place = place_in_quarters(half)
    high = load_chosen_pieces(base + 16 * (half & 1), 0, 1, 0, 1, like)
    up = 2 + place - (half >> 2) - 2 * (half & 2)
    high = keep_chosen_bits(rotate_pieces(high, up, up, up - 4, up - 4), 4 << place)
    return merge(field_pieces(base + 32, half, like), high)


THIRD_BITS = tuple(
    define_look_up_nibbles([(n >> first & 1) << 2 | (n >> first + 2 & 1) << 6 for n in range(16)])
    for first in (0, 1)
)
"""From the third bits of four blocks to those of the first and third, or second and fourth."""


def q3_k_two_blocks(number):
    """Blocks two by two in their bytes, as ``SuperBlock`` says."""
    offset, shift = 32 + 32 * (number // 2), 2 * (number % 2)
    third_bits, third_shift = THIRD_BITS[number % 2], 4 * (number // 2)

    def quants(base, like):
        low = keep_bits(shift_all(load_bytes(base + offset, like), shift), 0x33)
        high = low_nibbles(shift_all(load_bytes(base, like), third_shift))
        return merge(low, third_bits(high))

    return device(quants)


NIBBLES_UP, PAIRS_OF_BITS = 0x3C3C3C3C3C3C3C3C, 0x0303030303030303
SIGNS = 0x8080808080808080 - (1 << 64)


@device
def q3_k_scales(base, like):
    """Four times each scale: shifted up, six bits of which 32 is taken are a signed byte."""
    low, high = read_i64(base + 96), read_u32(base + 104)
    high |= high << 30
    first = (low << 2) & NIBBLES_UP | (high & PAIRS_OF_BITS) << 6
    last = (low >> 2) & NIBBLES_UP | (high >> 4 & PAIRS_OF_BITS) << 6
    return repeat_piece(piece_of(first ^ SIGNS, last ^ SIGNS), like)


# Q4_K: half d, half dmin; 12 bytes of 6-bit scales and minimums; 128 bytes of nibbles, where
# 32 bytes hold two sub-blocks of 32, the low nibbles first; weight = q * d * s - dmin * m


def q4_k_quants(half):
    """Nibbles of the first or last 16 weights of sub-blocks."""
    later = half + 2

    def quants(row, block, like):
        pairs = row + (block >> 3) * 144 + 16 + 32 * ((block & 7) >> 1)
        shift = 4 * (block & 1)
        pieces = load_chosen_pieces(pairs, half, half, later, later, like)
        return low_nibbles(shift_pieces(pieces, shift, 4, 0, 4))

    return device(quants)


@device
def nibble_pieces(pairs, half, place, like):
    """Nibbles, the low ones of 64 bytes first, then the high ones, ``place`` bits up."""
    pieces = load_chosen_pieces(pairs + 64 * (half >> 3) + 16 * (half & 3), 0, 1, 2, 3, like)
    return keep_chosen_bits(shift_all(pieces, (half & 4) - place), 15 << place)


@device
def q4_k_pieces(base, half, like):
    return nibble_pieces(base + 16, half, place_in_pairs(half), like)


SIX_BITS, LOWER_NIBBLES = 0x3F3F3F3F3F3F3F3F, 0x0F0F0F0F0F0F0F0F
PAIRS_OF_UPPER_BITS = 0x3030303030303030
Q4_K_SCALES = (0, 1, 2, 3, 8, 9, 10, 11)
Q4_K_MINIMUMS = tuple(place + 4 for place in Q4_K_SCALES)


@device
def q4_k_scales(base, like):
    """Of the first four groups the scales, then the minimums; then those of the last four."""
    first, nibbles = read_i64(base + 4), read_u32(base + 12)
    last = first >> 2 & PAIRS_OF_UPPER_BITS | (nibbles | nibbles << 28) & LOWER_NIBBLES
    return repeat_piece(piece_of(first & SIX_BITS, last), like)


# Q5_K: as Q4_K, with 32 bytes of fifth bits before the nibbles, the lowest for sub-block 0


def q5_k_quants(half):
    """Five bits of the first or last 16 weights of sub-blocks."""
    later = half + 2

    def quants(row, block, like):
        base, first = row + (block >> 3) * 176, block & 7
        shift, up = 4 * (first & 1), 4 - first
        low = load_chosen_pieces(base + 48 + 32 * (first >> 1), half, half, later, later, like)
        low = low_nibbles(shift_pieces(low, shift, 4, 0, 4))
        high = load_chosen_pieces(base + 16, half, half, half, half, like)
        return merge(low, keep_bits(rotate_pieces(high, up, up - 1, up - 2, up - 3), 0x10))

    return device(quants)


@device
def q5_k_pieces(base, half, like):
    high = load_chosen_pieces(base + 16 + 16 * (half & 1), 0, 1, 0, 1, like)
    place = place_in_pairs(half)
    up = 4 + place - 4 * (half >> 3) - ((half >> 2) & 1) - (half & 2)
    high = keep_chosen_bits(rotate_pieces(high, up, up, up - 2, up - 2), 16 << place)
    return merge(nibble_pieces(base + 48, half, place, like), high)


# Q6_K: 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, half d;
# weight = (q - 32) * d * s, one s for every 16 weights. Of 128 weights, 64 bytes hold the low
# nibbles (sub-blocks 0 and 1, then 2 and 3 in the upper nibbles), 32 bytes four bit pairs.


def q6_k_quants(half):
    """Six bits of the first or last 16 weights of sub-blocks."""
    later = half + 2

    def quants(row, block, like):
        base = row + (block >> 3) * 210
        part, first = (block & 7) >> 2, block & 3
        low_at = base + 64 * part + 32 * (block & 1)
        low = load_chosen_pieces(low_at, half, later, half, later, like)
        shift, up = 4 * (first >> 1), 4 - 2 * first
        low = low_nibbles(shift_pieces(low, shift, shift, 4, 4))
        high = load_chosen_pieces(base + 128 + 32 * part, half, half, half, half, like)
        return merge(low, keep_bits(rotate_pieces(high, up, up - 2, up - 4, up - 6), 0x30))

    return device(quants)


@device
def q6_k_pieces(base, half, like):
    high = load_chosen_pieces(base + 128 + 32 * (half >> 3) + 16 * (half & 1), 0, 1, 0, 1, like)
    up = 4 - (half & 6)
    high = keep_bits(rotate_pieces(high, up, up, up - 2, up - 2), 0x30)
    return merge(nibble_pieces(base, half, 0, like), high)


@device
def q6_k_scales(base, like):
    return load_chosen_pieces(base + 192, 0, 0, 0, 0, like)


def _code(name, quants, super_block):
    """How blocks are read by themselves and, ``super_block``, together."""
    return super_block_code(name, (quants(0), quants(1)), super_block)


Q4_K_PARTS = SuperBlock(
    q4_k_scales, _two_factors_at(0), 1.0, q4_k_pieces, q4_k_scales, 1.0, Q4_K_SCALES, Q4_K_MINIMUMS
)
K_QUANT_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        "Q2_K": _code(
            "Q2_K",
            q2_k_quants,
            SuperBlock(q2_k_scales, _two_factors_at(80), 1.0, q2_k_pieces, q2_k_minimums, 1 / 16),
        ),
        "Q3_K": _code(
            "Q3_K",
            q3_k_quants,
            SuperBlock(
                q3_k_scales,
                _factor_at(108),
                1 / 4,
                q3_k_pieces,
                two_by_two=tuple(map(q3_k_two_blocks, range(4))),
            ),
        ),
        "Q4_K": _code("Q4_K", q4_k_quants, Q4_K_PARTS),
        "Q5_K": _code("Q5_K", q5_k_quants, replace(Q4_K_PARTS, pieces=q5_k_pieces)),
        "Q6_K": _code(
            "Q6_K",
            q6_k_quants,
            SuperBlock(q6_k_scales, _factor_at(208), 1.0, q6_k_pieces),
        ),
    }
)
"""Per format name, how its blocks are read."""
