"""Q2_K Q3_K Q4_K Q5_K Q6_K and IQ4_XS: rows to super-blocks of 256, by search.

Knows each format's groups, weights and search; how scales are found is in ``scale_search`` and
``super_blocks``, where bits go in ``block_layouts``. Without importance the weights are ggml's,
which prefer large numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgellama.kernels_cpu import block_layouts as layouts
from edgellama.kernels_cpu.device import exact_device
from edgellama.kernels_cpu.grids import Grid, codebook_grid, offset_grid, places
from edgellama.kernels_cpu.lane_tiles import (
    at_vector,
    load_tile,
    point_at_blocks,
    vector_bytes,
    write_halves,
    write_words,
)
from edgellama.kernels_cpu.scale_search import affine_search, rounder, symmetric_search
from edgellama.kernels_cpu.simd import f32_zeros, lane_count
from edgellama.kernels_cpu.super_blocks import (
    GROUP_VECTORS,
    MINIMUM,
    NUM_QUANTITIES,
    SCALE,
    affine_quants,
    affine_super_block,
    put,
    symmetric_quants,
    symmetric_super_block,
)
from edgellama.kernels_cpu.weighting import (
    leave_importance,
    weigh_by_group,
    weigh_by_importance,
    weigh_by_magnitude,
    weigh_by_square,
)

SIZE = 256
# The scratch memory, in vectors: a table of addresses, then tiles.
X, W, QUANTS = 4, 4 + SIZE, 4 + 2 * SIZE
INTEGERS = 4 + 3 * SIZE
GROUPS = INTEGERS + 2 * GROUP_VECTORS
WORDS = GROUPS + NUM_QUANTITIES * GROUP_VECTORS


@dataclass(frozen=True)
class AffineFormat:
    """A format whose groups have a scale and a minimum, both integers up to ``levels``.

    The search begins at every one of ``starts`` and goes on ``num_refinements`` times from what is
    best; the choice of integers takes ``num_rounds``.
    """

    group_size: int
    top: int
    levels: int
    starts: tuple[float, ...]
    more_starts: tuple[float, ...]
    num_refinements: int
    num_rounds: int
    weigh: Callable[..., Any]
    weigh_importance: Callable[..., Any]
    pack: Callable[..., Any]
    num_words: int


@dataclass(frozen=True)
class SymmetricFormat:
    """A format whose groups have a scale alone, an integer from ``-levels`` to ``levels - 1``.

    It is stored ``integer_offset`` larger, and half d follows the words if ``ends_with_half``.
    """

    group_size: int
    grid: Grid
    levels: int
    integer_offset: int
    starts: tuple[float, ...]
    num_refinements: int
    num_rounds: int
    weigh: Callable[..., Any]
    weigh_importance: Callable[..., Any]
    pack: Callable[..., Any]
    num_words: int
    ends_with_half: bool = True


AFFINE: Mapping[str, AffineFormat] = MappingProxyType(
    {
        "Q2_K": AffineFormat(
            16, 3, 15, places(2.0, 0.2, 11), places(2.1, 0.2, 10), 2, 4,
            weigh_by_magnitude, weigh_by_importance(1.0, SIZE), layouts.pack_q2_k, 21,
        ),
        "Q4_K": AffineFormat(
            32, 15, 63, places(14.0, 0.2, 11), places(14.1, 0.2, 10), 2, 3,
            weigh_by_group, weigh_by_importance(2.0, SIZE), layouts.pack_q4_k, 36,
        ),
        "Q5_K": AffineFormat(
            32, 31, 63, places(30.0, 0.2, 11), places(30.1, 0.2, 10), 2, 3,
            weigh_by_group, weigh_by_importance(2.0, SIZE), layouts.pack_q5_k, 44,
        ),
    }
)  # fmt: skip
SYMMETRIC: Mapping[str, SymmetricFormat] = MappingProxyType(
    {
        "Q3_K": SymmetricFormat(
            16, offset_grid(4), 32, 32, places(-4.9, 0.2, 10) + places(3.0, 0.2, 5), 2, 3,
            weigh_by_square(0.6), weigh_by_importance(2.0, SIZE), layouts.pack_q3_k, 27,
        ),
        "Q6_K": SymmetricFormat(
            16, offset_grid(32), 128, 0, places(-32.9, 0.1, 19), 2, 2,
            weigh_by_square(0.0), leave_importance, layouts.pack_q6_k, 52,
        ),
        "IQ4_XS": SymmetricFormat(
            32, codebook_grid(), 32, 32, places(-134.0, 2.0, 9) + places(105.0, 2.0, 9), 2, 3,
            weigh_by_square(0.6), weigh_by_importance(2.0, SIZE), layouts.pack_iq4_xs, 34, False,
        ),
    }
)  # fmt: skip


def tile_loader(weigh, weigh_importance):
    """Loads the numbers and the weights of as many super-blocks as there are lanes."""

    def load(x, first, num_blocks, blocks_per_row, importance, scratch):
        x_tile, w_tile = at_vector(scratch, X), at_vector(scratch, W)
        point_at_blocks(scratch, x, first, num_blocks, num_blocks, 4 * SIZE)
        load_tile(scratch, SIZE, x_tile)
        if importance:
            point_at_blocks(scratch, importance, first, num_blocks, blocks_per_row, 4 * SIZE)
            load_tile(scratch, SIZE, w_tile)
            weigh_importance(x_tile, w_tile)
        else:
            weigh(x_tile, w_tile, SIZE)

    return exact_device(load)


def search_affine(name):
    """Super-blocks of a format with a minimum for every group."""
    fmt = AFFINE[name]
    group_size, num_words = fmt.group_size, fmt.num_words
    num_groups = SIZE // group_size
    nearest, pack = rounder(0, fmt.top), fmt.pack
    load = tile_loader(fmt.weigh, fmt.weigh_importance)
    search = affine_search(
        nearest, fmt.top, fmt.starts, fmt.more_starts, fmt.num_refinements, False
    )
    choose = affine_super_block(nearest, num_groups, group_size, fmt.levels, fmt.num_rounds)
    quantize = affine_quants(nearest, num_groups, group_size)

    def kernel(x, num_blocks, blocks, blocks_per_row, importance, scratch, thread, job):
        x_tile, w_tile = at_vector(scratch, X), at_vector(scratch, W)
        quants, integers = at_vector(scratch, QUANTS), at_vector(scratch, INTEGERS)
        groups, words = at_vector(scratch, GROUPS), at_vector(scratch, WORDS)
        for first in range(0, num_blocks, lane_count()):
            load(x, first, num_blocks, blocks_per_row, importance, scratch)
            for group in range(num_groups):
                at = group * group_size * vector_bytes()
                scale, low = search(x_tile + at, w_tile + at, group_size)
                put(groups, SCALE, group, scale)
                put(groups, MINIMUM, group, f32_zeros() - low)
            d, dmin = choose(x_tile, w_tile, groups)
            quantize(x_tile, groups, d, dmin, quants, integers)
            pack(quants, integers, d, dmin, words)
            count = min(lane_count(), num_blocks - first)
            write_words(words, num_words, blocks + first * 4 * num_words, 4 * num_words, count)

    return kernel


def search_symmetric(name):
    """Super-blocks of a format whose groups have a scale alone."""
    fmt = SYMMETRIC[name]
    group_size, num_words, ends_with_half = fmt.group_size, fmt.num_words, fmt.ends_with_half
    num_groups, block_bytes = SIZE // group_size, 4 * num_words + (2 if ends_with_half else 0)
    nearest, pack, levels = fmt.grid.nearest, fmt.pack, fmt.levels
    load = tile_loader(fmt.weigh, fmt.weigh_importance)
    search = symmetric_search(nearest, fmt.starts, fmt.num_refinements)
    choose = symmetric_super_block(
        nearest, num_groups, group_size, -levels, levels - 1, fmt.num_rounds
    )
    quantize = symmetric_quants(fmt.grid.number, num_groups, group_size, fmt.integer_offset)

    def kernel(x, num_blocks, blocks, blocks_per_row, importance, scratch, thread, job):
        x_tile, w_tile = at_vector(scratch, X), at_vector(scratch, W)
        quants, integers = at_vector(scratch, QUANTS), at_vector(scratch, INTEGERS)
        groups, words = at_vector(scratch, GROUPS), at_vector(scratch, WORDS)
        for first in range(0, num_blocks, lane_count()):
            load(x, first, num_blocks, blocks_per_row, importance, scratch)
            for group in range(num_groups):
                at = group * group_size * vector_bytes()
                put(groups, SCALE, group, search(x_tile + at, w_tile + at, group_size))
            d = choose(x_tile, w_tile, groups)
            quantize(x_tile, groups, d, quants, integers)
            pack(quants, integers, d, words)
            count = min(lane_count(), num_blocks - first)
            block = blocks + first * block_bytes
            write_words(words, num_words, block, block_bytes, count)
            if ends_with_half:
                half = words + num_words * vector_bytes()
                write_halves(half, block + 4 * num_words, block_bytes, count)

    return kernel
