"""Super-blocks of 256 weights: Q2_K to Q6_K, as in ggml.

``block`` counts blocks of 32 in the row and ``base`` is a super-block's address.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.block_code import (
    BlockCode,
    Reader,
    SuperBlock,
    super_block_code,
    times,
)
from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import read_i64, read_u32
from edgellama.kernels_cpu.simd_bytes import (
    keep_bits,
    load_chosen_pieces,
    low_nibbles,
    merge,
    rotate_pieces,
    shift_pieces,
)
from edgellama.kernels_cpu.simd_half import read_half
from edgellama.kernels_cpu.simd_scales import BYTE_UNIT

NIBBLES = 0x0F0F0F0F0F0F0F0F
BIT_PAIRS = 0x0303030303030303
SIGN_BITS = 0x8080808080808080 - (1 << 64)
"""Each a mask for eight bytes."""


def half_at(offset: int, factor: float) -> Reader:
    """The half at ``base + offset`` times ``factor``, as f32."""

    def number(base):
        return read_half(base + offset)

    return times(device(number), factor)


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
def q2_k_scale_words(base):
    return read_i64(base) & NIBBLES, read_i64(base + 8) & NIBBLES


@device
def q2_k_minimum_words(base):
    return (read_i64(base) >> 4) & NIBBLES, (read_i64(base + 8) >> 4) & NIBBLES


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
def q3_k_scale_words(base):
    """Four times each scale: shifted up, six bits of which 32 is taken are a signed byte."""
    low, high = read_i64(base + 96), read_u32(base + 104)
    high |= high << 30
    first = (low & NIBBLES) << 2 | (high & BIT_PAIRS) << 6
    last = ((low >> 4) & NIBBLES) << 2 | ((high >> 4) & BIT_PAIRS) << 6
    return first ^ SIGN_BITS, last ^ SIGN_BITS


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
def q4_k_scale_words(base):
    first, both = read_u32(base + 4), read_u32(base + 12)
    return first & 0x3F3F3F3F, both & 0x0F0F0F0F | (first >> 2) & 0x30303030


@device
def q4_k_minimum_words(base):
    first, both = read_u32(base + 8), read_u32(base + 12)
    return first & 0x3F3F3F3F, (both >> 4) & 0x0F0F0F0F | (first >> 2) & 0x30303030


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
def q6_k_scale_words(base):
    return read_i64(base + 192), read_i64(base + 200)


def _offset_super_block(num_bytes, words, factor_at, unit, offset):
    """Scales alone: the minimum is a constant times the scale."""
    return SuperBlock(
        num_bytes, words, half_at(factor_at, unit), words, half_at(factor_at, -offset * unit)
    )


def _minimum_super_block(num_bytes, scale_words, minimum_words, factors_at):
    """Scales and minimums, their factors in two halves that follow each other."""
    scale, minimum = half_at(factors_at, BYTE_UNIT), half_at(factors_at + 2, -BYTE_UNIT)
    return SuperBlock(num_bytes, scale_words, scale, minimum_words, minimum)


K_QUANT_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        "Q2_K": super_block_code(
            16,
            (q2_k_quants(0), q2_k_quants(1)),
            _minimum_super_block(84, q2_k_scale_words, q2_k_minimum_words, 80),
        ),
        "Q3_K": super_block_code(
            16,
            (q3_k_quants(0), q3_k_quants(1)),
            _offset_super_block(110, q3_k_scale_words, 108, BYTE_UNIT / 4, 4),
        ),
        "Q4_K": super_block_code(
            32,
            (q4_k_quants(0), q4_k_quants(1)),
            _minimum_super_block(144, q4_k_scale_words, q4_k_minimum_words, 0),
        ),
        "Q5_K": super_block_code(
            32,
            (q5_k_quants(0), q5_k_quants(1)),
            _minimum_super_block(176, q4_k_scale_words, q4_k_minimum_words, 0),
        ),
        "Q6_K": super_block_code(
            16,
            (q6_k_quants(0), q6_k_quants(1)),
            _offset_super_block(210, q6_k_scale_words, 208, BYTE_UNIT, 32),
        ),
    }
)
"""Per format name, how its blocks are read."""
