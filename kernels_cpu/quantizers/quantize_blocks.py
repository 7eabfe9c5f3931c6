"""IQ4_NL, and Q4_0, Q4_1, Q5_0 and Q5_1 with importance: blocks of 32 weights, by search.

The module knows each format's weighting, search and layout. Every block has a half as its own
scale. The search itself is in ``scale_search``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edgellama.kernels_cpu.quantizers.block_layouts import put_block_nibbles, put_word
from edgellama.kernels_cpu.quantizers.grids import CODEBOOK, WHOLE, Grid
from edgellama.kernels_cpu.quantizers.lane_tiles import (
    at_vector,
    load_tile,
    point_at_blocks,
    vector_bytes,
    write_halves,
    write_words,
)
from edgellama.kernels_cpu.quantizers.scale_search import (
    HUGE,
    Starts,
    affine_errors,
    affine_search,
    inverse_of,
    nearest_half,
    nearest_whole,
    solve_affine,
    symmetric_errors,
    symmetric_search,
    weight_sums,
)
from edgellama.kernels_cpu.quantizers.weighting import (
    mean_square,
    multiply_importance,
    weigh_by_square,
)
from edgellama.kernels_cpu.simd import operators  # noqa: F401
from edgellama.kernels_cpu.simd.arithmetic import mul, sum_lanes
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import (
    f32_zeros_32,
    half_bits,
    load_i32,
    minimum,
    truncate,
    where_greater,
)
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    splat_f32,
    store,
    write_f32,
)
from edgellama.quant.formats import FORMATS_BY_NAME

SIZE = 32
BLOCK_BYTES = 4 * SIZE
# The scratch memory, in vectors: a table of addresses, then tiles.
LEVELS = 4
X, W, QUANTS, WORDS = 5, 5 + SIZE, 5 + 2 * SIZE, 5 + 3 * SIZE
NUM_ROUNDS = 3
SHARE = np.float32(0.6)
"""Of the block's mean square in the weights, without importance."""


@dataclass(frozen=True)
class BlockFormat:
    """A format of blocks with half d, or halves d and m where ``grid`` is None.

    Quants go from 0 to ``top``; those of more than four bits keep the fifth in a word of its own.
    """

    top: int
    starts: Starts
    grid: Grid | None = None
    uses_row_level: bool = True


FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {
        "Q4_0": BlockFormat(15, Starts(-8.9, 19, 0.0, 0, 0.1), WHOLE),
        "Q5_0": BlockFormat(31, Starts(-16.9, 19, 0.0, 0, 0.1), WHOLE),
        "Q4_1": BlockFormat(15, Starts(14.0, 21, 14.1, 19, 0.1)),
        "Q5_1": BlockFormat(31, Starts(30.0, 21, 30.1, 19, 0.1)),
        "IQ4_NL": BlockFormat(15, Starts(-134.0, 9, 105.0, 9, 2.0), CODEBOOK, False),
    }
)


@exact_device
def row_level(x, num_blocks):
    """Mean of x² over a row."""
    total = np.float32(0.0)
    for block in range(num_blocks):
        values = load_f32(x + BLOCK_BYTES * block, f32_zeros_32())
        total += sum_lanes(mul(values, values))
    return total / np.float32(SIZE * num_blocks)


@exact_device
def put_row_levels(levels, x, first, num_blocks, blocks_per_row, row, level):
    """The mean square of each lane's row; the last row and its value are handed on."""
    for lane in range(lane_count()):
        own = min(first + lane, num_blocks - 1) // blocks_per_row
        if own != row:
            row = own
            level = row_level(x + row * blocks_per_row * BLOCK_BYTES, blocks_per_row)
        write_f32(levels + 4 * lane, level)
    return row, level


@functools.cache
def settle_symmetric(nearest):
    """For one grid: the half that loses least, by refitting a scale to its own quants."""
    evaluate = symmetric_errors(nearest)

    def settle(x, w, half, scale):
        best, chosen = splat_f32(HUGE, scale), nearest_half(scale)
        for _ in range(NUM_ROUNDS):
            d = nearest_half(scale)
            lx, l2, error = evaluate(x, w, SIZE, half, d)
            chosen = where_greater(best, error, d, chosen)
            best = minimum(error, best)
            scale = lx / l2
        return chosen

    return exact_device(settle)


@exact_device
def settle_affine(x, w, top, scale, low):
    """Turns scale and minimum into halves, by refitting them to their own quants."""
    sum_w, sum_x = weight_sums(x, w, SIZE)
    best, chosen, chosen_low = splat_f32(HUGE, low), nearest_half(scale), nearest_half(low)
    for _ in range(NUM_ROUNDS):
        d, m = nearest_half(scale), nearest_half(low)
        l1, l2, lx, error = affine_errors(x, w, SIZE, top, d, m)
        chosen = where_greater(best, error, d, chosen)
        chosen_low = where_greater(best, error, m, chosen_low)
        best = minimum(error, best)
        scale, low, _ = solve_affine(sum_w, sum_x, l1, l2, lx, splat_f32(HUGE, low))
    return chosen, chosen_low


@exact_device
def fifth_bits(quants):
    """Bit 4 of all 32 quants in one word."""
    bits = load_i32(quants, f32_zeros()) >> 4 & 1
    for i in range(1, SIZE):
        bits = bits | (load_i32(quants + i * vector_bytes(), f32_zeros()) >> 4 & 1) << i
    return bits


def affine_block(fmt):
    """Quants of the block in each lane, and the word of its halves d and m."""
    top, starts = np.float32(fmt.top), fmt.starts.arguments

    def quantize(x, w, quants, words):
        scale, low = affine_search(x, w, SIZE, top, starts, True)
        d, m = settle_affine(x, w, top, scale, low)
        inverse = inverse_of(d)
        for at in range(0, SIZE * vector_bytes(), vector_bytes()):
            quant = (load_f32(x + at, m) - m) * inverse
            store(quants + at, truncate(nearest_whole(quant, np.float32(0.0), top)))
        put_word(words, 0, half_bits(d) | half_bits(m) << 16)

    return exact_device(quantize)


def symmetric_block(fmt, num_words):
    """Quants of the block in each lane, and its half d behind the words."""
    number, starts = fmt.grid.number, fmt.starts.arguments
    search, settle = symmetric_search(fmt.grid.nearest), settle_symmetric(fmt.grid.nearest)
    half = np.float32((fmt.top + 1) // 2)

    def quantize(x, w, quants, words):
        d = settle(x, w, half, search(x, w, SIZE, half, starts))
        inverse = inverse_of(d)
        for at in range(0, SIZE * vector_bytes(), vector_bytes()):
            store(quants + at, number(load_f32(x + at, d) * inverse, half))
        put_word(words, num_words, half_bits(d))

    return exact_device(quantize)


def search_blocks(name):
    """Blocks of 32; ``importance`` may be 0 for the formats that can do without."""
    fmt, block_bytes = FORMATS[name], FORMATS_BY_NAME[name].block_bytes
    affine, has_fifth, num_words = fmt.grid is None, fmt.top > 15, block_bytes // 4
    uses_row_level = fmt.uses_row_level
    leading = 0 if affine else 2
    quantize = affine_block(fmt) if affine else symmetric_block(fmt, num_words)

    def kernel(x, num_blocks, blocks, blocks_per_row, importance, scratch, thread, job):
        x_tile, w_tile = at_vector(scratch, X), at_vector(scratch, W)
        quants, words = at_vector(scratch, QUANTS), at_vector(scratch, WORDS)
        levels = at_vector(scratch, LEVELS)
        row, level = -1, np.float32(0.0)
        for first in range(0, num_blocks, lane_count()):
            point_at_blocks(scratch, x, first, num_blocks, num_blocks, BLOCK_BYTES)
            load_tile(scratch, SIZE, x_tile)
            if importance:
                point_at_blocks(scratch, importance, first, num_blocks, blocks_per_row, BLOCK_BYTES)
                load_tile(scratch, SIZE, w_tile)
                if uses_row_level:
                    row, level = put_row_levels(
                        levels, x, first, num_blocks, blocks_per_row, row, level
                    )
                    multiply_importance(x_tile, w_tile, SIZE, load_f32(levels, f32_zeros()))
                else:
                    own_level = mean_square(x_tile, SIZE) * np.float32(2.0)
                    multiply_importance(x_tile, w_tile, SIZE, own_level)
            else:
                weigh_by_square(x_tile, w_tile, SIZE, SHARE)
            quantize(x_tile, w_tile, quants, words)
            if has_fifth:
                put_word(words, num_words - 5, fifth_bits(quants))
            put_block_nibbles(quants, words + (num_words - 4) * vector_bytes())
            count, block = min(lane_count(), num_blocks - first), blocks + first * block_bytes
            write_words(words, num_words, block + leading, block_bytes, count)
            if leading:
                write_halves(words + num_words * vector_bytes(), block, block_bytes, count)

    return kernel
