"""Blocks whose four-bit quants choose from a table of 16 values: IQ4_NL, IQ4_XS, MXFP4.

The layouts are those of ggml. Reading rows of these formats side by side is left to
``panels_iquants``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.formats.block_code import (
    BlockCode,
    SuperBlock,
    offset_code,
    super_block_code,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.exponents import load_exponents
from edgellama.kernels_cpu.simd.halves import halves_of_rows, load_half_scales, read_half
from edgellama.kernels_cpu.simd.integers import (
    high_nibbles,
    load_chosen_pieces,
    load_pieces,
    low_nibbles,
    piece_of,
    repeat_piece,
)
from edgellama.kernels_cpu.simd.vectors import load_bytes, read_u16, read_u32
from edgellama.kernels_cpu.simd.weight_bytes import define_look_up
from edgellama.quant.formats import IQ4_CODEBOOK, MXFP4_CODEBOOK

look_up = define_look_up(IQ4_CODEBOOK)


# IQ4_NL: half d; 16 bytes of nibbles, the low ones first; weight = table[q] * d


@device
def iq4_nl_low(row, block, like):
    return look_up(low_nibbles(load_pieces(row + block * 18 + 2, 18, like)))


@device
def iq4_nl_high(row, block, like):
    return look_up(high_nibbles(load_pieces(row + block * 18 + 2, 18, like)))


@device
def iq4_nl_scale(row, block, like):
    return load_half_scales(row + block * 18, 18, like)


@device
def iq4_nl_of_rows(row, next_row, block, like):
    first, second = load_bytes(row + block * 18, like), load_bytes(next_row + block * 18, like)
    return halves_of_rows(first, second, 9, like)


# IQ4_XS: half d; 16 bits with the upper pairs of eight scales, 4 bytes with their lower nibbles;
# 128 bytes of nibbles, 16 a sub-block; weight = table[q] * d * (s - 32)


@device
def iq4_xs_low(row, block, like):
    quants = row + (block >> 3) * 136 + 8 + 16 * (block & 7)
    return look_up(low_nibbles(load_chosen_pieces(quants, 0, 1, 2, 3, like)))


@device
def iq4_xs_high(row, block, like):
    quants = row + (block >> 3) * 136 + 8 + 16 * (block & 7)
    return look_up(high_nibbles(load_chosen_pieces(quants, 0, 1, 2, 3, like)))


@device
def iq4_xs_scales(base, like):
    """Four times each scale: shifted up, six bits of which 32 is taken are a signed byte."""
    low, high = read_u32(base + 4), read_u16(base + 2)
    low = (low | low << 16) & 0x0000FFFF0000FFFF
    low = (low | low << 8) & 0x00FF00FF00FF00FF
    low = (low | low << 4) & 0x0F0F0F0F0F0F0F0F
    high = (high | high << 24) & 0x000000FF000000FF
    high = (high | high << 12) & 0x000F000F000F000F
    high = (high | high << 6) & 0x0303030303030303
    words = (low << 2 | high << 6) ^ (0x8080808080808080 - (1 << 64))
    return repeat_piece(piece_of(words, words), like)


@device
def iq4_xs_factors(base):
    factor = read_half(base)
    return factor, factor


# MXFP4: a byte of exponent e; 16 bytes of nibbles, the low ones first; weight =
# table[q] * 2^(e - 128)

look_up_mxfp4 = define_look_up(MXFP4_CODEBOOK)


@device
def mxfp4_low(row, block, like):
    return look_up_mxfp4(low_nibbles(load_pieces(row + block * 17 + 1, 17, like)))


@device
def mxfp4_high(row, block, like):
    return look_up_mxfp4(high_nibbles(load_pieces(row + block * 17 + 1, 17, like)))


@device
def mxfp4_scale(row, block, like):
    return load_exponents(row + block * 17, 17, like)


IS_NEGATABLE = min(IQ4_CODEBOOK) > -128
I_QUANT_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        "IQ4_NL": offset_code(
            "IQ4_NL",
            (iq4_nl_low, iq4_nl_high),
            iq4_nl_scale,
            iq4_nl_of_rows,
            is_negatable=IS_NEGATABLE,
        ),
        "MXFP4": offset_code(
            "MXFP4", (mxfp4_low, mxfp4_high), mxfp4_scale, is_negatable=IS_NEGATABLE
        ),
        "IQ4_XS": super_block_code(
            "IQ4_XS",
            (iq4_xs_low, iq4_xs_high),
            SuperBlock(iq4_xs_scales, iq4_xs_factors, 1 / 4),
            is_negatable=IS_NEGATABLE,
        ),
    }
)
"""Per format name, how its blocks are read."""
