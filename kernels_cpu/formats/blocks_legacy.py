"""Blocks of 32 weights with one half as their scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

The layouts are those of ggml. Reading rows of these formats side by side is left to
``panels_legacy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.formats.block_code import BlockCode, minimum_code, offset_code
from edgellama.kernels_cpu.simd.compiler_barriers import keep_whole
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.fifth_bits import fifth_bits
from edgellama.kernels_cpu.simd.halves import (
    halves_of_pieces,
    halves_of_rows,
    load_half_scales,
    two_halves_of_rows,
)
from edgellama.kernels_cpu.simd.integers import (
    high_nibbles,
    load_pieces,
    low_nibbles,
    merge,
)
from edgellama.kernels_cpu.simd.vectors import load_bytes
from edgellama.kernels_cpu.simd.weight_bytes import as_weights

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


@device
def q4_0_of_rows(row, next_row, block, like):
    first, second = load_bytes(row + block * 18, like), load_bytes(next_row + block * 18, like)
    return halves_of_rows(first, second, 9, like)


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


@device
def q4_1_of_rows(row, next_row, block, like):
    first, second = load_bytes(row + block * 20, like), load_bytes(next_row + block * 20, like)
    return two_halves_of_rows(first, second, 10, like)


# Q5_0: half d; 32 fifth bits; 16 bytes of nibbles; weight = (q - 16) * d. All that stands
# before the nibbles is read as one piece of 16 bytes.


@device
def q5_0_low(row, block, like):
    nibbles = low_nibbles(load_pieces(row + block * 22 + 6, 22, like))
    return merge(nibbles, fifth_bits(load_pieces(row + block * 22, 22, like), 2))


@device
def q5_0_high(row, block, like):
    nibbles = high_nibbles(load_pieces(row + block * 22 + 6, 22, like))
    return merge(nibbles, fifth_bits(load_pieces(row + block * 22, 22, like), 4))


@device
def q5_0_scale(row, block, like):
    return halves_of_pieces(load_pieces(row + block * 22, 22, like), 0)


@device
def q5_0_of_rows(row, next_row, block, like):
    first = keep_whole(load_pieces(row + block * 22, 22, like))
    second = keep_whole(load_pieces(next_row + block * 22, 22, like))
    return halves_of_rows(first, second, 8, like)


# Q5_1: half d, half m; 32 fifth bits; 16 bytes of nibbles; weight = q * d + m


@device
def q5_1_low(row, block, like):
    nibbles = low_nibbles(load_pieces(row + block * 24 + 8, 24, like))
    return merge(nibbles, fifth_bits(load_pieces(row + block * 24, 24, like), 4))


@device
def q5_1_high(row, block, like):
    nibbles = high_nibbles(load_pieces(row + block * 24 + 8, 24, like))
    return merge(nibbles, fifth_bits(load_pieces(row + block * 24, 24, like), 6))


@device
def q5_1_scale(row, block, like):
    return halves_of_pieces(load_pieces(row + block * 24, 24, like), 0)


@device
def q5_1_minimum(row, block, like, scale):
    return halves_of_pieces(load_pieces(row + block * 24, 24, like), 1)


@device
def q5_1_of_rows(row, next_row, block, like):
    first = keep_whole(load_pieces(row + block * 24, 24, like))
    second = keep_whole(load_pieces(next_row + block * 24, 24, like))
    return two_halves_of_rows(first, second, 8, like)


# Q8_0: half d; 32 signed bytes; weight = q * d


@device
def q8_0_low(row, block, like):
    return as_weights(load_pieces(row + block * 34 + 2, 34, like))


@device
def q8_0_high(row, block, like):
    return as_weights(load_pieces(row + block * 34 + 18, 34, like))


@device
def q8_0_scale(row, block, like):
    return load_half_scales(row + block * 34, 34, like)


LEGACY_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {
        code.format.name: code
        for code in (
            offset_code("Q4_0", (q4_0_low, q4_0_high), q4_0_scale, q4_0_of_rows),
            minimum_code("Q4_1", (q4_1_low, q4_1_high), q4_1_scale, q4_1_minimum, q4_1_of_rows),
            offset_code("Q5_0", (q5_0_low, q5_0_high), q5_0_scale, q5_0_of_rows),
            minimum_code("Q5_1", (q5_1_low, q5_1_high), q5_1_scale, q5_1_minimum, q5_1_of_rows),
            offset_code("Q8_0", (q8_0_low, q8_0_high), q8_0_scale),
        )
    }
)
"""Per format name, how its blocks are read."""
