"""The product of a matrix with one token, or with a few that each have the bits of one alone.

Rows are read where they lie, once. Threads take them in chunks, so that each thread reads one
sequential stream and a slow or interrupted thread simply takes fewer. Two rows of small blocks are
taken at a time; if eight products fit 16 bits, the rows share vectors of products. Every output is
summed in one fixed order, whichever thread computes it and whatever other tokens there are.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from edgellama.kernels_cpu.formats.blocks import BLOCK_CODES
from edgellama.kernels_cpu.layouts import RECORD_BYTES, SCALE_AT, STARTS_AT, SUM_AT
from edgellama.kernels_cpu.matrices.gemv_super_blocks import super_block_dots
from edgellama.kernels_cpu.matrices.prefetching import ask_for, bytes_ahead, define_ask_ahead
from edgellama.kernels_cpu.matrices.record_products import define_product
from edgellama.kernels_cpu.matrices.side_by_side import CellTile, for_cells, for_each_of
from edgellama.kernels_cpu.simd.arithmetic import add, fma, fold, mul, sum_lanes
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.halves import load_bf16, load_f16
from edgellama.kernels_cpu.simd.integers import to_f32
from edgellama.kernels_cpu.simd.product_starts import define_take_off_centre
from edgellama.kernels_cpu.simd.scales import (
    add_of_rows,
    dot_pairs,
    pack_pairs,
    pairs_of_ones,
    sums_by_source,
)
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    f32_zeros_4,
    f32_zeros_8,
    lane_count,
    load_f32,
    read_f32,
    width_of,
    write_f32,
)
from edgellama.kernels_cpu.threads.tasks import count_tasks, tasks_of

FLOAT_TOKENS = 4
"""Tokens whose sums are kept side by side with float weights."""
FLOAT_LOADS = {"F32": (load_f32, 4), "F16": (load_f16, 2), "BF16": (load_bf16, 2)}
"""Per float format: how a vector is read, and the bytes of one number."""


@device
def write_result(value, y, accumulate):
    """Store a number, on top of what is there if ``accumulate``; nowhere if ``y`` is 0."""
    if y != 0:
        result = np.float32(value)
        if accumulate:
            result += read_f32(y)
        write_f32(y, result)


def _write_cell(value, cell, accumulate):
    """Store the result of one row."""
    _row, _x, y = cell
    write_result(value, y, accumulate)


def _write_pair(values, cell, accumulate):
    """Store the results of two rows."""
    _row, _x, y, _next_row, next_y = cell
    write_result(values[0], y, accumulate)
    write_result(values[1], next_y, accumulate)


def _single_step(code):
    """Sums += the blocks at ``block``, for formats without a minimum."""
    product, scale_of = define_product(code), code.scale[0]

    def step(cell, sums, block):
        (row, x, _y), (products, minimums) = cell, sums
        record = x + block * RECORD_BYTES
        x_scale = load_f32(record + SCALE_AT * width_of(products), products)
        scaled = mul(to_f32(product(row, block, record, products)), x_scale)
        return fma(scaled, scale_of(row, block, products), products), minimums

    return step


def _paired_step(code):
    """The same for two rows, and for formats with a scale and a minimum for 32 weights."""
    product, read_scales, has_minimum = define_product(code), code.of_two_rows, code.has_minimum
    join = add_of_rows if code.is_wide else _define_join_packed(code)

    def step(cell, sums, block):
        (row, x, _y, next_row, _next_y), (products, minimums) = cell, sums
        record, width = x + block * RECORD_BYTES, width_of(products)
        dots = join(
            product(row, block, record, products), product(next_row, block, record, products),
            record + STARTS_AT * width,
        )  # fmt: skip
        scaled = mul(to_f32(dots), load_f32(record + SCALE_AT * width, products))
        scales = read_scales(row, next_row, block, products)
        products = fma(scaled, scales[0], products)
        if has_minimum:
            x_sum = load_f32(record + SUM_AT * width, products)
            minimums = fma(scales[-1], x_sum, minimums)
        return products, minimums

    return step


def _define_join_packed(code):
    """A device function: products of two rows in one vector, where eight of them fit 16 bits."""
    take_off_centre = define_take_off_centre(0 if code.has_minimum else code.centre)

    def join(first, second, starts):
        packed = take_off_centre(pack_pairs(first, second), starts)
        return dot_pairs(packed, pairs_of_ones(first))

    return device(join)


def _sum_of_lanes(total):
    """A cell's result."""
    return sum_lanes(total)


def _sums_by_source(total):
    """The results of a pair."""
    return sums_by_source(total)


def _add_narrowed(sums, total):
    """The total of four lanes plus a vector of products and one of minimums."""
    products, minimums = sums
    return add(total, fold(add(products, minimums), total))


add_all_narrowed = for_cells(_add_narrowed)
TOTALS_OF = (for_cells(_sum_of_lanes), for_cells(_sums_by_source))
WRITE_OUTPUTS = (for_cells(_write_cell), for_cells(_write_pair))
"""By whether two rows make one cell."""


def _block_dots(code, block_bytes, tile):
    """Dot products of a tile's cells, rows of blocks of 32."""
    step = for_cells(_paired_step(code) if tile.is_paired else _single_step(code))
    totals_of, ask_ahead = TOTALS_OF[tile.is_paired], define_ask_ahead(tile, block_bytes)

    def dots(cells, ahead, num_blocks):
        group = lane_count() // 4
        block = num_blocks // group * group
        zero, zero_8, zero_4 = f32_zeros(), f32_zeros_8(), f32_zeros_4()
        sums = for_each_of(cells, (zero, zero))
        for i in range(0, block, group):
            ask_ahead(cells, ahead, i, zero)
            sums = step((cells, sums), i)
        totals = add_all_narrowed((sums, for_each_of(cells, zero_4)))
        if group == 4 and block + 2 <= num_blocks:
            ask_ahead(cells, ahead, block, zero_8)
            sums_8 = step((cells, for_each_of(cells, (zero_8, zero_8))), block)
            totals = add_all_narrowed((sums_8, totals))
            block += 2
        if block < num_blocks:
            ask_ahead(cells, ahead, block, zero_4)
            sums_4 = step((cells, for_each_of(cells, (zero_4, zero_4))), block)
            totals = add_all_narrowed((sums_4, totals))
        return totals_of((totals,))

    return device(dots)


def quantized_dots(name, tile):
    """Dot products of a tile's cells: rows of blocks with tokens' records."""
    code = BLOCK_CODES[name]
    if code.super_block:
        return super_block_dots(code, tile)
    return _block_dots(code, code.format.block_bytes, tile)


def float_dots(name, tile):
    """Dot products of a tile's cells: rows of float weights with tokens' f32 activations."""
    load, number_bytes = FLOAT_LOADS[name]
    totals_of, ask_ahead = TOTALS_OF[False], define_ask_ahead(tile, 8 * number_bytes)

    def step(cell, sums, column):
        (row, x, _y), (first, second) = cell, sums
        after = column + width_of(first)
        weights = load(row + column * number_bytes, first)
        weights_after = load(row + after * number_bytes, second)
        first = fma(weights, load_f32(x + 4 * column, first), first)
        return first, fma(weights_after, load_f32(x + 4 * after, second), second)

    def tail_step(cell, total, column):
        row, x, _y = cell
        weights = load(row + column * number_bytes, total)
        return fma(weights, load_f32(x + 4 * column, total), total)

    steps, tail_steps = for_cells(step), for_cells(tail_step)

    def dots(cells, ahead, num_columns):
        zero, stride = f32_zeros(), 2 * lane_count()
        pairs = num_columns // stride * stride
        sums = for_each_of(cells, (zero, zero))
        for i in range(0, pairs, stride):
            ask_ahead(cells, ahead, i // 8, zero)
            sums = steps((cells, sums), i)
        totals = add_all_narrowed((sums, for_each_of(cells, f32_zeros_4())))
        for i in range(pairs, num_columns // 4 * 4, 4):
            totals = tail_steps((cells, totals), i)
        return totals_of((totals,))

    return device(dots)


def _multiply_rows(dots_of, tile):
    """The results of a chunk of rows, a tile of cells at a time."""
    num_rows, num_tokens, places = tile.num_rows, tile.num_tokens, tile.places
    cells_at, write_outputs = tile.cells_at, WRITE_OUTPUTS[tile.is_paired]
    dots = dots_of(tile)

    def multiply_rows(first, last, num_steps, accumulate, *memory):
        total_tokens, weights, row_bytes, _x, _x_stride, _y, _y_stride = memory
        distance = bytes_ahead(row_bytes, num_rows)
        ask_for(weights + first * row_bytes, min(distance, (last - first) * row_bytes))
        for row in range(first, last, num_rows):
            ahead = weights + row * row_bytes + distance
            for token in range(0, total_tokens, num_tokens):
                cells = cells_at((places,), row, last, token, *memory)
                write_outputs((dots(cells, ahead, num_steps), cells), accumulate)

    return device(multiply_rows)


def _gemv(multiply_rows, columns_per_step):
    def kernel(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_stride, chunk_rows, counter, thread, job,
    ):  # fmt: skip
        num_steps = num_columns // columns_per_step
        num_tasks = count_tasks(num_rows, chunk_rows)
        for task in tasks_of(counter, job, num_tasks):
            first = task * chunk_rows
            multiply_rows(
                first, min(first + chunk_rows, num_rows), num_steps, accumulate,
                num_tokens, weights, row_bytes, x, x_stride, y, y_stride,
            )  # fmt: skip

    return kernel


def quantized_gemv(name, num_tokens=1):
    """y = weights x for blocks of ``name`` and quantized tokens, so many at a time.

    A token has the same bits whatever their number: its sums are its own.
    """
    code = BLOCK_CODES[name]
    tile = CellTile(1 if code.super_block else 2, num_tokens, code.of_two_rows is not None)
    return _gemv(_multiply_rows(partial(quantized_dots, name), tile), 32)


def float_gemv(name):
    """y = weights x for float weights and f32 tokens; columns a multiple of 4."""
    one_token, few_tokens = (
        _multiply_rows(partial(float_dots, name), CellTile(2, n)) for n in (1, FLOAT_TOKENS)
    )

    def multiply_rows(first, last, num_steps, accumulate, num_tokens, *memory):
        if num_tokens == 1:
            one_token(first, last, num_steps, accumulate, num_tokens, *memory)
        else:
            few_tokens(first, last, num_steps, accumulate, num_tokens, *memory)

    return _gemv(device(multiply_rows), 1)
