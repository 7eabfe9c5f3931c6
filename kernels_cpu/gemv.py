"""Matrix times one or a few tokens: weight blocks are read where they lie, once.

One row at a time, so that each thread reads one sequential stream. Rows are handed out in
chunks: a slow or preempted thread simply takes fewer. Every output
is summed in one fixed order, whoever computes it and whatever tokens stand beside it.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.blocks import BLOCK_CODES
from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.gemv_super_blocks import super_block_row_dot
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

FLOAT_LOADS = {"F32": (load_f32, 4), "F16": (load_f16, 2), "BF16": (load_bf16, 2)}
"""Per float format: how a vector is read, and the bytes of one number."""


@device
def write_output(y, value, accumulate):
    """Store one result, on top of what is there if ``accumulate``."""
    if accumulate:
        value += read_f32(y)
    write_f32(y, value)


def _minimum_step(code):
    """Sums += the blocks at ``block``, for formats with a scale and a minimum for 32 weights."""
    (low, high), dot4 = code.quants, DOT4_OF[code.is_wide]
    scale_of, minimum_of = code.scale[0], code.minimum[0]

    def step(row, block, record, products, minimums):
        size = 4 * width_of(products)
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

    return device(step)


def _offset_step(code):
    """Sums += the blocks at ``block``, where the minimum is a constant times the scale."""
    (low, high), dot4 = code.quants, DOT4_OF[code.is_wide]
    scale_of, offset_of = code.scale[0], code.offset

    def step(row, block, record, products, minimums):
        size = 4 * width_of(products)
        dots = dot4(
            i32_zeros_like(products), low(row, block, products), load_bytes(record, products)
        )
        dots = dot4(dots, high(row, block, products), load_bytes(record + size, products))
        scaled = mul(to_f32(dots), load_f32(record + 2 * size, products))
        x_sum = load_f32(record + 3 * size, products)
        scaled = fma(x_sum, splat_f32(-offset_of(), products), scaled)
        return fma(scaled, scale_of(row, block, products), products), minimums

    return device(step)


def _block_row_dot(code):
    """The dot product of one row of blocks of 32 with one token's records."""
    step = _offset_step(code) if code.offset else _minimum_step(code)

    def row_dot(row, x, num_blocks):
        group = lane_count() // 4
        block = num_blocks // group * group
        products, minimums = f32_zeros(), f32_zeros()
        for i in range(0, block, group):
            products, minimums = step(row, i, x + i * 64, products, minimums)
        total = fold(add(products, minimums), f32_zeros_4())
        if group == 4 and block + 2 <= num_blocks:
            pair, pair_minimums = step(row, block, x + block * 64, f32_zeros_8(), f32_zeros_8())
            total = add(total, fold(add(pair, pair_minimums), total))
            block += 2
        if block < num_blocks:
            one, one_minimums = step(row, block, x + block * 64, f32_zeros_4(), f32_zeros_4())
            total = add(total, add(one, one_minimums))
        return sum_lanes(total)

    return device(row_dot)


def quantized_row_dot(name):
    """The dot product of one row of blocks with one token's records."""
    code = BLOCK_CODES[name]
    return super_block_row_dot(code) if code.super_block else _block_row_dot(code)


def float_row_dot(name):
    """The dot product of one row of float weights with one token's f32 activations."""
    load, number_bytes = FLOAT_LOADS[name]

    def row_dot(row, x, num_columns):
        lanes = lane_count()
        first, second = f32_zeros(), f32_zeros()
        pairs = num_columns // (2 * lanes) * (2 * lanes)
        for i in range(0, pairs, 2 * lanes):
            first = fma(load(row + i * number_bytes, first), load_f32(x + 4 * i, first), first)
            j = i + lanes
            second = fma(load(row + j * number_bytes, first), load_f32(x + 4 * j, first), second)
        tail = fold(add(first, second), f32_zeros_4())
        fours = pairs + (num_columns - pairs) // 4 * 4
        for i in range(pairs, fours, 4):
            tail = fma(load(row + i * number_bytes, tail), load_f32(x + 4 * i, tail), tail)
        return sum_lanes(tail)

    return device(row_dot)


def _gemv(row_dot, columns_per_step):
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
            for row in range(first, min(first + chunk_rows, num_rows)):
                at = weights + row * row_bytes
                for token in range(num_tokens):
                    value = row_dot(at, x + token * x_stride, num_steps)
                    write_output(y + token * y_stride + 4 * row, np.float32(value), accumulate)
            num_done += 1
            task = claim(counter, job, num_tasks)
        finish(counter, num_done, num_tasks)

    return kernel


def quantized_gemv(name):
    """y = weights x for blocks of ``name`` and quantized tokens."""
    return _gemv(quantized_row_dot(name), 32)


def float_gemv(name):
    """y = weights x for float weights and f32 tokens; columns a multiple of 4."""
    return _gemv(float_row_dot(name), 1)
