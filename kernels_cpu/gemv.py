"""Matrix times one or a few tokens: weight blocks are read where they lie, once.

Rows are handed out in chunks, so that each thread reads one sequential stream, and a slow or
preempted thread simply takes fewer. One token takes two rows at a time, a few tokens take one
row or two together. Every output is summed in one fixed order, whoever computes it and whatever
tokens stand beside it.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from edgellama.kernels_cpu.activations import RECORD_BYTES
from edgellama.kernels_cpu.blocks import BLOCK_CODES
from edgellama.kernels_cpu.cells import (
    FOUR_TOKENS,
    TWO_ROWS,
    TWO_ROWS_FOUR_TOKENS,
    cells_at,
    for_cells,
    for_each_of,
)
from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.gemv_super_blocks import super_block_dots
from edgellama.kernels_cpu.prefetching import ask_for_begin, bytes_ahead, define_ask_ahead
from edgellama.kernels_cpu.simd import (
    f32_zeros,
    f32_zeros_4,
    f32_zeros_8,
    lane_count,
    load_bytes,
    load_f32,
    read_f32,
    splat_f32,
    width_of,
    write_f32,
)
from edgellama.kernels_cpu.simd_bytes import i32_zeros_like, to_f32
from edgellama.kernels_cpu.simd_half import load_bf16, load_f16
from edgellama.kernels_cpu.simd_math import add, fma, fold, mul, sum_lanes
from edgellama.kernels_cpu.simd_weights import DOT4_OF
from edgellama.kernels_cpu.tasks import claim, finish
from edgellama.quant.formats import FORMATS_BY_NAME

FLOAT_LOADS = {"F32": (load_f32, 4), "F16": (load_f16, 2), "BF16": (load_bf16, 2)}
"""Per float format: how a vector is read, and the bytes of one number."""


def _write_output(value, cell, accumulate):
    """Store one result, on top of what is there if ``accumulate``."""
    _row, _x, y = cell
    if y != 0:
        result = np.float32(value)
        if accumulate:
            result += read_f32(y)
        write_f32(y, result)


def _minimum_step(code):
    """Sums += the blocks at ``block``, for formats with a scale and a minimum for 32 weights."""
    (low, high), dot4 = code.quants, DOT4_OF[code.is_wide]
    scale_of, minimum_of = code.scale[0], code.minimum[0]

    def step(cell, sums, block):
        (row, x, _y), (products, minimums) = cell, sums
        record, size = x + block * RECORD_BYTES, 4 * width_of(products)
        dots = dot4(
            i32_zeros_like(products), low(row, block, products), load_bytes(record, products)
        )
        dots = dot4(dots, high(row, block, products), load_bytes(record + size, products))
        scale = scale_of(row, block, products)
        scaled = mul(to_f32(dots), load_f32(record + 2 * size, products))
        minimum = minimum_of(row, block, products, scale)
        return fma(scaled, scale, products), fma(
            minimum, load_f32(record + 3 * size, products), minimums
        )

    return step


def _offset_step(code):
    """Sums += the blocks at ``block``, where the minimum is a constant times the scale."""
    (low, high), dot4 = code.quants, DOT4_OF[code.is_wide]
    scale_of, offset_of = code.scale[0], code.offset

    def step(cell, sums, block):
        (row, x, _y), (products, minimums) = cell, sums
        record, size = x + block * RECORD_BYTES, 4 * width_of(products)
        dots = dot4(
            i32_zeros_like(products), low(row, block, products), load_bytes(record, products)
        )
        dots = dot4(dots, high(row, block, products), load_bytes(record + size, products))
        scaled = mul(to_f32(dots), load_f32(record + 2 * size, products))
        x_sum = load_f32(record + 3 * size, products)
        scaled = fma(x_sum, splat_f32(-offset_of(), products), scaled)
        return fma(scaled, scale_of(row, block, products), products), minimums

    return step


def _sum_of_lanes(total):
    """A cell's result."""
    return sum_lanes(total)


def _add_narrowed(sums, total):
    """The total of four lanes plus a vector of products and one of minimums."""
    products, minimums = sums
    return add(total, fold(add(products, minimums), total))


write_outputs, totals_of = for_cells(_write_output), for_cells(_sum_of_lanes)
add_all_narrowed = for_cells(_add_narrowed)


def _block_dots(code, block_bytes, num_rows):
    """Dot products of cells of ``num_rows`` rows of blocks of 32."""
    step = for_cells(_offset_step(code) if code.offset else _minimum_step(code))
    ask_ahead = define_ask_ahead(num_rows, block_bytes)

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


def quantized_dots(name, num_rows):
    """Dot products of cells: rows of blocks with tokens' records."""
    code = BLOCK_CODES[name]
    if code.super_block:
        return super_block_dots(code, num_rows)
    return _block_dots(code, FORMATS_BY_NAME[name].row_bytes(32), num_rows)


def float_dots(name, num_rows):
    """Dot products of cells: rows of float weights with tokens' f32 activations."""
    load, number_bytes = FLOAT_LOADS[name]
    ask_ahead = define_ask_ahead(num_rows, 8 * number_bytes)

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


def _multiply_rows(dots_of, places):
    """The results of a chunk of rows, so many cells at a time."""
    num_rows, num_tokens = (number + 1 for number in places[-1])
    dots = dots_of(num_rows)

    def multiply_rows(first, last, num_steps, accumulate, *memory):
        total_tokens, weights, row_bytes, _x, _x_stride, _y, _y_stride = memory
        distance = bytes_ahead(row_bytes, num_rows)
        ask_for_begin(weights + first * row_bytes, min(distance, (last - first) * row_bytes))
        for row in range(first, last, num_rows):
            ahead = weights + row * row_bytes + distance
            for token in range(0, total_tokens, num_tokens):
                cells = cells_at((places,), row, last, token, *memory)
                write_outputs((dots(cells, ahead, num_steps), cells), accumulate)

    return device(multiply_rows)


def _gemv(dots_of, columns_per_step, few_places):
    one_token = _multiply_rows(dots_of, TWO_ROWS)
    few_tokens = _multiply_rows(dots_of, few_places)

    def kernel(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_stride, chunk_rows, counter, thread, job,
    ):  # fmt: skip
        num_steps = num_columns // columns_per_step
        num_tasks = (num_rows + chunk_rows - 1) // chunk_rows
        num_done = 0
        task = claim(counter, job, num_tasks)
        while task < num_tasks:
            first = task * chunk_rows
            last = min(first + chunk_rows, num_rows)
            memory = num_tokens, weights, row_bytes, x, x_stride, y, y_stride
            if num_tokens == 1:
                one_token(first, last, num_steps, accumulate, *memory)
            else:
                few_tokens(first, last, num_steps, accumulate, *memory)
            num_done += 1
            task = claim(counter, job, num_tasks)
        finish(counter, num_done, num_tasks)

    return kernel


def quantized_gemv(name):
    """y = weights x for blocks of ``name`` and quantized tokens."""
    few = FOUR_TOKENS if BLOCK_CODES[name].super_block else TWO_ROWS_FOUR_TOKENS
    return _gemv(partial(quantized_dots, name), 32, few)


def float_gemv(name):
    """y = weights x for float weights and f32 tokens; columns a multiple of 4."""
    return _gemv(partial(float_dots, name), 1, TWO_ROWS_FOUR_TOKENS)
