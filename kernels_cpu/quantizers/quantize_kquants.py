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

import numpy as np

from edgellama.kernels_cpu.quantizers import block_layouts as layouts
from edgellama.kernels_cpu.quantizers.grids import CODEBOOK, WHOLE, Grid
from edgellama.kernels_cpu.quantizers.lane_tiles import (
    at_vector,
    load_tile,
    point_at_blocks,
    vector_bytes,
    write_halves,
    write_words,
)
from edgellama.kernels_cpu.quantizers.scale_search import Starts, affine_search, symmetric_search
from edgellama.kernels_cpu.quantizers.super_blocks import (
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
from edgellama.kernels_cpu.quantizers.weighting import (
    leave_importance,
    weigh_by_group,
    weigh_by_importance,
    weigh_by_magnitude,
    weigh_by_square,
)
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.vectors import f32_zeros, lane_count
from edgellama.quant.formats import FORMATS_BY_NAME

SIZE = 256
# The scratch memory, in vectors: a table of addresses, then tiles.
X, W, QUANTS = 4, 4 + SIZE, 4 + 2 * SIZE
INTEGERS = 4 + 3 * SIZE
GROUPS = INTEGERS + 2 * GROUP_VECTORS
WORDS = GROUPS + NUM_QUANTITIES * GROUP_VECTORS


@dataclass(frozen=True)
class SuperFormat:
    """A format's search; ``pack`` knows its layout of words, and of a half where one is left.

    Without a ``grid`` groups have minimums, quants go up to ``top``, and scales up to ``levels``.
    With one, ``top`` of its values lie below zero, and scales go from ``-levels`` to ``levels - 1``
    and are stored ``offset`` larger. They are found in ``num_rounds``.
    ``weigh`` and ``weigh_importance`` come with a number that they take.
    """

    name: str
    top: int
    levels: int
    starts: Starts
    num_rounds: int
    weigh: tuple[Callable[..., Any], float]
    weigh_importance: tuple[Callable[..., Any], float]
    pack: Callable[..., Any]
    grid: Grid | None = None
    offset: int = 0

    @property
    def shape(self) -> tuple[int, int, np.float32, np.float32, int]:
        """What the choice of integers must know."""
        quants = FORMATS_BY_NAME[self.name].quants
        assert quants is not None
        top, levels = np.float32(self.top), np.float32(self.levels)
        return SIZE // quants.group_size, quants.group_size, top, levels, self.num_rounds


FORMATS: Mapping[str, SuperFormat] = MappingProxyType(
    {
        search.name: search
        for search in (
            SuperFormat(
                "Q2_K", 3, 15, Starts(2.0, 11, 2.1, 10, 0.2), 4,
                (weigh_by_magnitude, 0.15), (weigh_by_importance, 1.0), layouts.pack_q2_k,
            ),
            SuperFormat(
                "Q4_K", 15, 63, Starts(14.0, 11, 14.1, 10, 0.2), 3,
                (weigh_by_group, 0.0), (weigh_by_importance, 2.0), layouts.pack_q4_k,
            ),
            SuperFormat(
                "Q5_K", 31, 63, Starts(30.0, 11, 30.1, 10, 0.2), 3,
                (weigh_by_group, 0.0), (weigh_by_importance, 2.0), layouts.pack_q5_k,
            ),
            SuperFormat(
                "Q3_K", 4, 32, Starts(-4.9, 10, 3.0, 5, 0.2), 3,
                (weigh_by_square, 0.8), (weigh_by_importance, 2.0), layouts.pack_q3_k,
                grid=WHOLE, offset=32,
            ),
            SuperFormat(
                "Q6_K", 32, 128, Starts(-32.9, 19, 0.0, 0, 0.1), 2,
                (weigh_by_square, 0.1), (leave_importance, 0.0), layouts.pack_q6_k, grid=WHOLE,
            ),
            SuperFormat(
                "IQ4_XS", 8, 32, Starts(-134.0, 9, 105.0, 9, 2.0), 3,
                (weigh_by_square, 0.6), (weigh_by_importance, 2.0), layouts.pack_iq4_xs,
                grid=CODEBOOK, offset=32,
            ),
        )
    }
)  # fmt: skip


def tile_loader(fmt):
    """Loads the numbers and the weights of as many super-blocks as there are lanes."""
    (weigh, share), (weigh_importance, factor) = fmt.weigh, fmt.weigh_importance
    share, factor = np.float32(share), np.float32(factor)

    def load(x, first, num_blocks, blocks_per_row, importance, scratch):
        x_tile, w_tile = at_vector(scratch, X), at_vector(scratch, W)
        point_at_blocks(scratch, x, first, num_blocks, num_blocks, 4 * SIZE)
        load_tile(scratch, SIZE, x_tile)
        if importance:
            point_at_blocks(scratch, importance, first, num_blocks, blocks_per_row, 4 * SIZE)
            load_tile(scratch, SIZE, w_tile)
            weigh_importance(x_tile, w_tile, SIZE, factor)
        else:
            weigh(x_tile, w_tile, SIZE, share)

    return exact_device(load)


def affine_blocks(fmt):
    """Words of the super-blocks of a tile, for a format with minimums."""
    pack, shape, starts = fmt.pack, fmt.shape, fmt.starts.arguments
    num_groups, group_size, top, _, _ = shape

    def quantize(scratch):
        x, w, groups = (at_vector(scratch, X), at_vector(scratch, W), at_vector(scratch, GROUPS))
        quants, integers = at_vector(scratch, QUANTS), at_vector(scratch, INTEGERS)
        for group in range(num_groups):
            at = group * group_size * vector_bytes()
            scale, low = affine_search(x + at, w + at, group_size, top, starts, False)
            put(groups, SCALE, group, scale)
            put(groups, MINIMUM, group, f32_zeros() - low)
        d, dmin = affine_super_block(x, w, groups, shape)
        affine_quants(x, groups, shape, d, dmin, quants, integers)
        pack(quants, integers, d, dmin, at_vector(scratch, WORDS))

    return exact_device(quantize)


def symmetric_blocks(fmt):
    """Words of the super-blocks of a tile, for a format with scales alone."""
    pack, shape, starts, offset = fmt.pack, fmt.shape, fmt.starts.arguments, np.float32(fmt.offset)
    num_groups, group_size, half, _, _ = shape
    search, choose = symmetric_search(fmt.grid.nearest), symmetric_super_block(fmt.grid.nearest)
    write_quants = symmetric_quants(fmt.grid.number)

    def quantize(scratch):
        x, w, groups = (at_vector(scratch, X), at_vector(scratch, W), at_vector(scratch, GROUPS))
        quants, integers = at_vector(scratch, QUANTS), at_vector(scratch, INTEGERS)
        for group in range(num_groups):
            at = group * group_size * vector_bytes()
            put(groups, SCALE, group, search(x + at, w + at, group_size, half, starts))
        d = choose(x, w, groups, shape)
        write_quants(x, groups, shape, offset, d, quants, integers)
        pack(quants, integers, d, at_vector(scratch, WORDS))

    return exact_device(quantize)


def search_super_blocks(name):
    """Super-blocks of one format; ``importance`` may be 0."""
    fmt = FORMATS[name]
    load = tile_loader(fmt)
    quantize = affine_blocks(fmt) if fmt.grid is None else symmetric_blocks(fmt)
    block_bytes = FORMATS_BY_NAME[name].block_bytes
    num_words, ends_with_half = block_bytes // 4, block_bytes % 4 == 2

    def kernel(x, num_blocks, blocks, blocks_per_row, importance, scratch, thread, job):
        words = at_vector(scratch, WORDS)
        for first in range(0, num_blocks, lane_count()):
            load(x, first, num_blocks, blocks_per_row, importance, scratch)
            quantize(scratch)
            count, block = min(lane_count(), num_blocks - first), blocks + first * block_bytes
            write_words(words, num_words, block, block_bytes, count)
            if ends_with_half:
                half = words + num_words * vector_bytes()
                write_halves(half, block + 4 * num_words, block_bytes, count)

    return kernel
