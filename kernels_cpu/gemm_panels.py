"""Panels: a few vectors of rows, expanded from blocks once for all tokens of a long step.

Each 32-bit lane holds four consecutive quants of one row, with one f32 scale and minimum per
row and group. Weights that do not fill the last panel are those of the last row again.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.signatures import PANEL_VECTORS
from edgellama.kernels_cpu.simd import (
    f32_zeros,
    f32_zeros_4,
    lane_count,
    read_f32,
    splat_f32,
    store,
    width_of,
    write_f32,
)
from edgellama.kernels_cpu.simd_math import fma
from edgellama.kernels_cpu.simd_tiles import transpose_every_fourth_word, transpose_words


@device
def gather_word(source, source_stride, destination):
    """The word at ``source`` of every row to the lanes of one vector."""
    for i in range(lane_count()):
        write_f32(destination + 4 * i, read_f32(source + i * source_stride))


@device
def move_words(source, destination, like, block_step, word_step):
    """Rows of ``like``'s width to lanes: word j of block b to b * block_step + j * word_step."""
    words = width_of(like)
    if words == lane_count():
        transpose_words(source, destination, block_step, word_step)
    else:
        for j in range(words):
            gather_word(source + 4 * j, 4 * words, destination + j * word_step)


@device
def move_words_of_blocks(source, destination, like, block_step):
    """The first of every four words, which are equal, of all rows to lanes."""
    words = width_of(like)
    if words == lane_count():
        transpose_every_fourth_word(source, destination, block_step)
    else:
        gather_word(source, 4 * words, destination)


@device
def row_at(weights, row_bytes, row, num_rows):
    """Address of a row; past the end that of the last, whose results nobody reads."""
    return weights + min(row, num_rows - 1) * row_bytes


def _expand_half_blocks(code, half):
    """One half of the quants of a few blocks of one vector of rows, moved from rows to lanes."""
    quants, scale_of, minimum_of = code.quants[half], code.scale[half], code.minimum[half]
    groups_per_block, centre = 32 // code.group_size, np.float32(code.centre)
    has_scales, has_minimum = half < groups_per_block, code.has_minimum
    is_centred = code.centre != 0

    def expand(
        weights, row_bytes, first_row, num_rows, block, like, panel, scales, minimums, spare
    ):
        lanes, words = lane_count(), width_of(like)
        row_step, step = 4 * words, PANEL_VECTORS * lanes * 4
        scale_rows = spare + lanes * row_step
        minimum_rows = scale_rows + lanes * row_step
        for i in range(lanes):
            row = row_at(weights, row_bytes, first_row + i, num_rows)
            store(spare + i * row_step, quants(row, block, like))
            if has_scales:
                scale = scale_of(row, block, like)
                store(scale_rows + i * row_step, scale)
                if has_minimum:
                    minimum = minimum_of(row, block, like, scale)
                    if is_centred:
                        minimum = fma(scale, splat_f32(centre, like), minimum)
                    store(minimum_rows + i * row_step, minimum)
        move_words(spare, panel + (block * 8 + 4 * half) * step, like, 8 * step, step)
        if has_scales:
            offset, scale_step = (block * groups_per_block + half) * step, groups_per_block * step
            move_words_of_blocks(scale_rows, scales + offset, like, scale_step)
            if has_minimum:
                move_words_of_blocks(minimum_rows, minimums + offset, like, scale_step)

    return device(expand)


def define_expand_panel(code):
    """All columns of PANEL_VECTORS vectors of rows."""
    expand_low, expand_high = _expand_half_blocks(code, 0), _expand_half_blocks(code, 1)

    @device
    def expand(weights, row_bytes, row, num_rows, block, like, panel, scales, minimums, spare):
        expand_low(weights, row_bytes, row, num_rows, block, like, panel, scales, minimums, spare)
        expand_high(weights, row_bytes, row, num_rows, block, like, panel, scales, minimums, spare)

    def expand_panel(
        weights, row_bytes, first_row, num_rows, num_blocks, panel, scales, minimums, spare
    ):
        lanes = lane_count()
        group = lanes // 4
        full = num_blocks // group * group
        for v in range(PANEL_VECTORS):
            row, shift = first_row + v * lanes, v * lanes * 4
            to, to_scales, to_minimums = panel + shift, scales + shift, minimums + shift
            for block in range(0, full, group):
                wide = f32_zeros()
                expand(
                    weights, row_bytes, row, num_rows, block, wide, to, to_scales, to_minimums,
                    spare,
                )  # fmt: skip
            for block in range(full, num_blocks):
                narrow = f32_zeros_4()
                expand(
                    weights, row_bytes, row, num_rows, block, narrow, to, to_scales, to_minimums,
                    spare,
                )  # fmt: skip

    return device(expand_panel)
