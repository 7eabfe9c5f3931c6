"""How each block format is read: 16-byte pieces of unsigned quants, their scales and minimums.

The one place that knows the layouts (those of ggml's ``block_q4_0`` … ``block_q6_K``). Every
format becomes weight = quant * scale + minimum; ``gemv``, ``gemm`` and ``embed`` are written
once over that. ``block`` counts blocks of 32 weights within a row, and ``like`` says how many
blocks are read: one per 4 lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import read_u32, splat_f32
from edgellama.kernels_cpu.simd_bytes import (
    flip_sign_bits,
    high_nibbles,
    keep_bits,
    load_chosen_pieces,
    load_paired_scales,
    load_pieces,
    low_nibbles,
    merge,
    rotate_pieces,
    to_f32,
    widen_word,
)
from edgellama.kernels_cpu.simd_half import load_half_scales, read_half
from edgellama.kernels_cpu.simd_math import mul

Reader = Callable[..., Any]


@dataclass(frozen=True)
class BlockCode:
    """The functions that read one format, to be called from kernels.

    ``quants[half](row, block, like)``: unsigned bytes, the first or last 16 of every block.
    ``scale[half](row, block, like)`` and ``minimum[half](row, block, like, scale)``: f32, four
    lanes a block. Where ``group_size`` is 32 the halves share scale and minimum; where it is
    16, scale is ``integer_scale[half]`` (i32) times ``super_scale``. ``offset`` is minimum /
    -scale where that is constant, else 0.
    """

    group_size: int
    quants: tuple[Reader, Reader]
    scale: tuple[Reader, Reader]
    minimum: tuple[Reader, Reader]
    offset: int = 0
    integer_scale: tuple[Reader, Reader] | None = None
    super_scale: Reader | None = None


def constant_minimum(factor):
    """minimum = factor * scale, for formats whose quants are offset by a constant."""
    times = np.float32(factor)

    def minimum(row, block, like, scale):
        return mul(scale, splat_f32(times, like))

    reader = device(minimum)
    return reader, reader


def product_scale(integer_scale, super_scale):
    """The f32 scale of a format that stores small integers and one factor for all of them."""

    def scale(row, block, like):
        return mul(to_f32(integer_scale(row, block, like)), super_scale(row, block, like))

    return device(scale)


# Q4_0: half d; 16 bytes of nibbles, the low ones first; weight = (q - 8) * d


@device
def q4_0_low(row, block, like):
    return low_nibbles(load_pieces(row + block * 18 + 2, 18, like))


@device
def q4_0_high(row, block, like):
    return high_nibbles(load_pieces(row + block * 18 + 2, 18, like))


@device
def q4_0_scale(row, block, like):
    return load_half_scales(row + block * 18, 18, like)


# Q4_1: half d, half m; 16 bytes of nibbles; weight = q * d + m


@device
def q4_1_low(row, block, like):
    return low_nibbles(load_pieces(row + block * 20 + 4, 20, like))


@device
def q4_1_high(row, block, like):
    return high_nibbles(load_pieces(row + block * 20 + 4, 20, like))


@device
def q4_1_scale(row, block, like):
    return load_half_scales(row + block * 20, 20, like)


@device
def q4_1_minimum(row, block, like, scale):
    return load_half_scales(row + block * 20 + 2, 20, like)


# Q8_0: half d; 32 signed bytes; weight = q * d, read as (q + 128) * d - 128 * d


@device
def q8_0_low(row, block, like):
    return flip_sign_bits(load_pieces(row + block * 34 + 2, 34, like))


@device
def q8_0_high(row, block, like):
    return flip_sign_bits(load_pieces(row + block * 34 + 18, 34, like))


@device
def q8_0_scale(row, block, like):
    return load_half_scales(row + block * 34, 34, like)


# Q4_K: half d, half dmin; 12 bytes of 6-bit scales and minimums; 128 bytes of nibbles, where
# 32 bytes hold two sub-blocks of 32, the low nibbles first; weight = q * d * s - dmin * m


def q4_k_quants(half):
    """Nibbles of the first or last 16 weights of sub-blocks."""
    later = half + 2

    def quants(row, block, like):
        pairs = row + (block >> 3) * 144 + 16 + 32 * ((block & 7) >> 1)
        pieces = load_chosen_pieces(pairs, half, half, later, later, like)
        return low_nibbles(rotate_pieces(pieces, -4 * (block & 1), -4, 0, -4))

    return device(quants)


@device
def q4_k_scale(row, block, like):
    base = row + (block >> 3) * 144
    if block & 4:
        packed = (read_u32(base + 12) & 0x0F0F0F0F) | ((read_u32(base + 4) >> 2) & 0x30303030)
    else:
        packed = read_u32(base + 4) & 0x3F3F3F3F
    return mul(widen_word(packed >> (8 * (block & 3)), like), splat_f32(read_half(base), like))


@device
def q4_k_minimum(row, block, like, scale):
    base = row + (block >> 3) * 144
    if block & 4:
        packed = ((read_u32(base + 12) >> 4) & 0x0F0F0F0F) | (
            (read_u32(base + 8) >> 2) & 0x30303030
        )
    else:
        packed = read_u32(base + 8) & 0x3F3F3F3F
    minimum = widen_word(packed >> (8 * (block & 3)), like)
    return mul(minimum, splat_f32(-read_half(base + 2), like))


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
        high = load_chosen_pieces(base + 128 + 32 * part, half, half, half, half, like)
        low = low_nibbles(rotate_pieces(low, -4 * (first >> 1), 0, -4, -4))
        return merge(low, keep_bits(rotate_pieces(high, 4 - 2 * first, 2, 0, -2), 0x30))

    return device(quants)


def q6_k_integer_scale(half):
    """s of the first or last 16 weights of sub-blocks."""

    def scale(row, block, like):
        base = row + (block >> 3) * 210
        return load_paired_scales(base + 192 + 2 * (block & 7), half, like)

    return device(scale)


@device
def q6_k_super_scale(row, block, like):
    return splat_f32(read_half(row + (block >> 3) * 210 + 208), like)


def _offset_code(quants, scale, offset):
    """A format of blocks of 32 whose minimum is a constant times the scale."""
    return BlockCode(32, quants, (scale, scale), constant_minimum(-offset), offset)


def _super_block_code(quants, integer_scale, super_scale, offset):
    """A format with groups of 16 whose minimum is a constant times the scale."""
    low, high = (product_scale(integer, super_scale) for integer in integer_scale)
    minimum = constant_minimum(-offset)
    return BlockCode(16, quants, (low, high), minimum, offset, integer_scale, super_scale)


BLOCK_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        "Q4_0": _offset_code((q4_0_low, q4_0_high), q4_0_scale, 8),
        "Q4_1": BlockCode(32, (q4_1_low, q4_1_high), (q4_1_scale,) * 2, (q4_1_minimum,) * 2),
        "Q8_0": _offset_code((q8_0_low, q8_0_high), q8_0_scale, 128),
        "Q4_K": BlockCode(
            32, (q4_k_quants(0), q4_k_quants(1)), (q4_k_scale,) * 2, (q4_k_minimum,) * 2
        ),
        "Q6_K": _super_block_code(
            (q6_k_quants(0), q6_k_quants(1)),
            (q6_k_integer_scale(0), q6_k_integer_scale(1)),
            q6_k_super_scale,
            32,
        ),
    }
)
"""Per format name, how its blocks are read."""
