"""Matrix times one or a few tokens: weight blocks are read where they lie, once.

One row at a time, so that each thread reads one sequential stream. Rows are handed out in
chunks: a slow or preempted thread simply takes fewer. Every output
is summed in one fixed order, whoever computes it and whatever tokens stand beside it.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.blocks import BLOCK_CODES
from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import (
    f32_zeros,
    f32_zeros_4,
    lane_count,
    load_bytes,
    load_f32,
    read_f32,
    width_of,
    write_f32,
)
from edgellama.kernels_cpu.simd_bytes import bytes_like, dot4, i32_zeros_like, sub_i32, to_f32
from edgellama.kernels_cpu.simd_half import load_bf16, load_f16
from edgellama.kernels_cpu.simd_math import fma, mul, sum_lanes
from edgellama.kernels_cpu.tasks import claim, finish

FLOAT_LOADS = {"F32": (load_f32, 4), "F16": (load_f16, 2), "BF16": (load_bf16, 2)}
"""Per float format: how a vector is read, and the bytes of one number."""


@device
def write_output(y, value, accumulate):
    """Store one result, on top of what is there if ``accumulate``."""
    if accumulate:
        value += read_f32(y)
    write_f32(y, value)


def _whole_block_step(code):
    """accumulators += the blocks at ``block``, for formats with one scale for 32 weights."""
    low, high = code.quants
    scale_of, minimum_of = code.scale[0], code.minimum[0]

    def step(row, block, record, accumulator, minimums):
        size = 4 * width_of(accumulator)
        dots = i32_zeros_like(accumulator)
        dots = dot4(dots, low(row, block, accumulator), load_bytes(record, accumulator))
        dots = dot4(dots, high(row, block, accumulator), load_bytes(record + size, accumulator))
        scale = scale_of(row, block, accumulator)
        scaled = mul(to_f32(dots), load_f32(record + 2 * size, accumulator))
        minimum = minimum_of(row, block, accumulator, scale)
        accumulator = fma(scaled, scale, accumulator)
        return accumulator, fma(minimum, load_f32(record + 3 * size, accumulator), minimums)

    return device(step)


def _half_block_step(code):
    """accumulator += the blocks at ``block``, for formats with one scale for 16 weights.

    Their minimum is a constant times the scale, so it is taken off the integer sums.
    """
    low, high = (
        _half_step(quants, scale, code.offset)
        for quants, scale in zip(code.quants, code.scale, strict=True)
    )

    def step(row, block, record, accumulator, minimums):
        size = 4 * width_of(accumulator)
        x_scale = load_f32(record + 2 * size, accumulator)
        accumulator = low(row, block, load_bytes(record, accumulator), x_scale, accumulator)
        x = load_bytes(record + size, accumulator)
        return high(row, block, x, x_scale, accumulator), minimums

    return device(step)


def _half_step(quants, scale_of, offset):
    def step(row, block, x, x_scale, accumulator):
        zeros = i32_zeros_like(accumulator)
        dots = dot4(zeros, quants(row, block, accumulator), x)
        dots = sub_i32(dots, dot4(zeros, bytes_like(x, offset), x))
        return fma(mul(to_f32(dots), x_scale), scale_of(row, block, accumulator), accumulator)

    return device(step)


def quantized_row_dot(name):
    """The dot product of one row of blocks with one token's records."""
    code = BLOCK_CODES[name]
    step = _whole_block_step(code) if code.group_size == 32 else _half_block_step(code)

    def row_dot(row, x, num_blocks):
        group = lane_count() // 4
        full = num_blocks // group * group
        accumulator, minimums = f32_zeros(), f32_zeros()
        for block in range(0, full, group):
            accumulator, minimums = step(row, block, x + block * 64, accumulator, minimums)
        total = sum_lanes(accumulator) + sum_lanes(minimums)
        if full < num_blocks:
            tail, tail_minimums = f32_zeros_4(), f32_zeros_4()
            for block in range(full, num_blocks):
                tail, tail_minimums = step(row, block, x + block * 64, tail, tail_minimums)
            total += sum_lanes(tail) + sum_lanes(tail_minimums)
        return total

    return device(row_dot)


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
        total = sum_lanes(first) + sum_lanes(second)
        tail = f32_zeros_4()
        fours = pairs + (num_columns - pairs) // 4 * 4
        for i in range(pairs, fours, 4):
            tail = fma(load(row + i * number_bytes, tail), load_f32(x + 4 * i, tail), tail)
        total += sum_lanes(tail)
        return total

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
