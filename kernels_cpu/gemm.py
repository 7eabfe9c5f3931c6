"""Matrix times many tokens: expand a panel of rows once, then multiply it with every token.

A panel is ``PANEL_VECTORS`` vectors of rows over all columns. For block formats each 32-bit
lane holds four consecutive quants of one row, with one f32 scale and minimum per row and
group; for float formats one f32. The register tile then never leaves its registers within a
group. Outputs are padded to whole panels and tiles, so there is no tail code.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.blocks import BLOCK_CODES
from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.gemv import FLOAT_LOADS
from edgellama.kernels_cpu.signatures import GEMM_TOKENS, PANEL_VECTORS, START_AT, SUM_BYTES
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
from edgellama.kernels_cpu.simd_dot_tiles import SCALE_TILE, define_group_dots
from edgellama.kernels_cpu.simd_math import fma
from edgellama.kernels_cpu.simd_tiles import (
    FMA_TILE,
    add_tiles,
    f32_tile,
    load_tile,
    store_tile,
    transpose_every_fourth_word,
    transpose_words,
)
from edgellama.kernels_cpu.tasks import claim, finish

FMA_F32 = FMA_TILE["f32"]


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


def _expand_panel(code):
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
                    weights,
                    row_bytes,
                    row,
                    num_rows,
                    block,
                    wide,
                    to,
                    to_scales,
                    to_minimums,
                    spare,
                )
            for block in range(full, num_blocks):
                narrow = f32_zeros_4()
                expand(
                    weights,
                    row_bytes,
                    row,
                    num_rows,
                    block,
                    narrow,
                    to,
                    to_scales,
                    to_minimums,
                    spare,
                )

    return device(expand_panel)


def _block_tile(code):
    """The register tile over all groups of weights that share a scale."""
    group_words = code.group_size // 4
    group_dots = define_group_dots(group_words, code.centre, code.is_wide)
    scale_tile = SCALE_TILE[code.has_minimum]

    def multiply(
        panel,
        scales,
        minimums,
        x,
        x_bytes,
        x_scale,
        x_sum,
        scale_bytes,
        sum_bytes,
        num_groups,
        groups_per_scale,
        tile,
    ):
        step = PANEL_VECTORS * lane_count() * 4
        for group in range(num_groups):
            dots = group_dots(tile, panel, step, x, x_bytes, x_sum + START_AT, sum_bytes)
            tile = scale_tile(
                tile, dots, scales, minimums,
                x_scale + group // groups_per_scale * 4, scale_bytes, x_sum, sum_bytes,
            )  # fmt: skip
            panel += group_words * step
            scales += step
            minimums += step
            x += 4 * group_words
            x_sum += SUM_BYTES
        return tile

    return device(multiply)


@device
def store_results(tile, y, y_stride, accumulate):
    """Write a finished tile, on top of what is there if ``accumulate``."""
    if accumulate:
        tile = add_tiles(tile, load_tile(tile, y, y_stride))
    store_tile(tile, y, y_stride)


def quantized_gemm(name):
    """y = weights x for blocks of ``name`` and many quantized tokens."""
    code = BLOCK_CODES[name]
    expand_panel, multiply = _expand_panel(code), _block_tile(code)
    groups_per_block = 32 // code.group_size

    def kernel(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_scale, x_sum, x_half_sum, scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        num_blocks = num_columns // 32
        num_groups = num_blocks * groups_per_block
        panel_rows = PANEL_VECTORS * lane_count()
        panel = scratch + thread * scratch_stride
        scales = panel + panel_rows * num_columns
        minimums = scales + panel_rows * num_groups * 4
        spare = minimums + panel_rows * num_groups * 4
        sums = x_sum if groups_per_block == 1 else x_half_sum
        num_tasks = (num_rows + panel_rows - 1) // panel_rows
        num_done = 0
        task = claim(counter, job, num_tasks)
        while task < num_tasks:
            first = task * panel_rows
            expand_panel(
                weights, row_bytes, first, num_rows, num_blocks, panel, scales, minimums, spare
            )
            for token in range(0, num_tokens, GEMM_TOKENS):
                tile = multiply(
                    panel, scales, minimums, x + token * num_columns, num_columns,
                    x_scale + token * num_blocks * 4, sums + token * num_groups * SUM_BYTES,
                    num_blocks * 4, num_groups * SUM_BYTES, num_groups, groups_per_block,
                    f32_tile(PANEL_VECTORS, GEMM_TOKENS),
                )  # fmt: skip
                store_results(tile, y + token * y_stride + 4 * first, y_stride, accumulate)
            num_done += 1
            task = claim(counter, job, num_tasks)
        finish(counter, num_done, num_tasks)

    return kernel


def float_gemm(name):
    """y = weights x for float weights and many f32 tokens."""
    load, number_bytes = FLOAT_LOADS[name]

    def kernel(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_stride, scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        lanes = lane_count()
        panel_rows = PANEL_VECTORS * lanes
        step = panel_rows * 4
        panel = scratch + thread * scratch_stride
        spare = panel + num_columns * step
        num_tasks = (num_rows + panel_rows - 1) // panel_rows
        num_done = 0
        task = claim(counter, job, num_tasks)
        while task < num_tasks:
            first = task * panel_rows
            for v in range(PANEL_VECTORS):
                for column in range(0, num_columns, 4):
                    for i in range(lanes):
                        row = row_at(weights, row_bytes, first + v * lanes + i, num_rows)
                        store(spare + 16 * i, load(row + column * number_bytes, f32_zeros_4()))
                    move_words(spare, panel + column * step + v * lanes * 4, f32_zeros_4(), 0, step)
            for token in range(0, num_tokens, GEMM_TOKENS):
                tile = f32_tile(PANEL_VECTORS, GEMM_TOKENS)
                for column in range(num_columns):
                    tile = FMA_F32(
                        tile, panel + column * step, x + token * x_stride + 4 * column, x_stride
                    )
                store_results(tile, y + token * y_stride + 4 * first, y_stride, accumulate)
            num_done += 1
            task = claim(counter, job, num_tasks)
        finish(counter, num_done, num_tasks)

    return kernel
