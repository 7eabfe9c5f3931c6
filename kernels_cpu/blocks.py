"""How each block format is read: 16-byte pieces of unsigned quants, their scales and minimums.

The one place that knows the layouts (those of ggml's ``block_q4_0`` … ``block_q6_K``). Every
format becomes weight = quant * scale + minimum; ``gemv``, ``gemm`` and ``embed`` are written
once over that. ``block`` counts blocks of 32 weights within a row, ``half`` is 0 or 1 for the
first or last 16 weights of each, and ``like`` says how many blocks are read: one per 4 lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import (
    flip_sign_bits,
    high_nibbles,
    load_half_scales,
    load_i8_scales,
    load_pieces,
    load_pieces_at,
    low_nibbles,
    low_two_bits,
    merge_bits,
    mul,
    read_half,
    read_u32,
    shift_pieces_right,
    splat_f32,
    widen_word,
)


@dataclass(frozen=True)
class BlockCode:
    """The functions that read one format, to be called from kernels.

    ``quants(row, block, half, like)``: unsigned bytes. ``scale(row, block, half, like)`` and
    ``minimum(row, block, half, like, scale)``: f32, four lanes a block. Where ``group_size`` is
    32, scales and minimums do not depend on ``half``.
    """

    group_size: int
    quants: Callable[..., Any]
    scale: Callable[..., Any]
    minimum: Callable[..., Any]


# Q4_0: half d; 16 bytes of nibbles, the low ones first; weight = (q - 8) * d


@device
def q4_0_quants(row, block, half, like):
    pieces = load_pieces(row + block * 18 + 2, 18, like)
    return low_nibbles(pieces) if half == 0 else high_nibbles(pieces)


@device
def q4_0_scale(row, block, half, like):
    return load_half_scales(row + block * 18, 18, like)


@device
def q4_0_minimum(row, block, half, like, scale):
    return mul(scale, splat_f32(np.float32(-8.0), like))


# Q4_1: half d, half m; 16 bytes of nibbles; weight = q * d + m


@device
def q4_1_quants(row, block, half, like):
    pieces = load_pieces(row + block * 20 + 4, 20, like)
    return low_nibbles(pieces) if half == 0 else high_nibbles(pieces)


@device
def q4_1_scale(row, block, half, like):
    return load_half_scales(row + block * 20, 20, like)


@device
def q4_1_minimum(row, block, half, like, scale):
    return load_half_scales(row + block * 20 + 2, 20, like)


# Q8_0: half d; 32 signed bytes; weight = q * d, read as (q + 128) * d - 128 * d


@device
def q8_0_quants(row, block, half, like):
    return flip_sign_bits(load_pieces(row + block * 34 + 2 + 16 * half, 34, like))


@device
def q8_0_scale(row, block, half, like):
    return load_half_scales(row + block * 34, 34, like)


@device
def q8_0_minimum(row, block, half, like, scale):
    return mul(scale, splat_f32(np.float32(-128.0), like))


# Q4_K: half d, half dmin; 12 bytes of 6-bit scales and minimums; 128 bytes of nibbles, where
# 32 bytes hold two sub-blocks of 32, the low nibbles first; weight = q * d * s - dmin * m


@device
def q4_k_quants(row, block, half, like):
    at = row + (block >> 3) * 144 + 16 + 32 * ((block & 7) >> 1) + 16 * half
    pieces = load_pieces_at(at, at, at + 32, at + 32, like)
    shift = 4 * (block & 1)
    return low_nibbles(shift_pieces_right(pieces, shift, 4, 0, 4))


@device
def q4_k_scale(row, block, half, like):
    base = row + (block >> 3) * 144
    if block & 4:
        packed = (read_u32(base + 12) & 0x0F0F0F0F) | ((read_u32(base + 4) >> 2) & 0x30303030)
    else:
        packed = read_u32(base + 4) & 0x3F3F3F3F
    scale = widen_word(packed >> (8 * (block & 3)), like)
    return mul(scale, splat_f32(read_half(base), like))


@device
def q4_k_minimum(row, block, half, like, scale):
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
# weight = (q - 32) * d * s, one s for every 16 weights


@device
def q6_k_quants(row, block, half, like):
    base = row + (block >> 3) * 210
    part = (block & 7) >> 2
    low_at = base + 64 * part + 32 * (block & 1) + 16 * half
    low = load_pieces_at(low_at, low_at + 32, low_at, low_at + 32, like)
    high_at = base + 128 + 32 * part + 16 * half
    high = load_pieces_at(high_at, high_at, high_at, high_at, like)
    first = block & 3
    low_bits = low_nibbles(shift_pieces_right(low, 4 * (first >> 1), 0, 4, 4))
    high_bits = low_two_bits(shift_pieces_right(high, 2 * first, 2, 4, 6))
    return merge_bits(low_bits, high_bits)


@device
def q6_k_scale(row, block, half, like):
    base = row + (block >> 3) * 210
    scales = load_i8_scales(base + 192 + 2 * (block & 7) + half, 2, like)
    return mul(scales, splat_f32(read_half(base + 208), like))


@device
def q6_k_minimum(row, block, half, like, scale):
    return mul(scale, splat_f32(np.float32(-32.0), like))


BLOCK_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        "Q4_0": BlockCode(32, q4_0_quants, q4_0_scale, q4_0_minimum),
        "Q4_1": BlockCode(32, q4_1_quants, q4_1_scale, q4_1_minimum),
        "Q8_0": BlockCode(32, q8_0_quants, q8_0_scale, q8_0_minimum),
        "Q4_K": BlockCode(32, q4_k_quants, q4_k_scale, q4_k_minimum),
        "Q6_K": BlockCode(16, q6_k_quants, q6_k_scale, q6_k_minimum),
    }
)
"""Per format name, how its blocks are read."""
