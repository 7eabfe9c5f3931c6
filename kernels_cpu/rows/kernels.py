"""Kernels along rows of f32 activations: norm, SwiGLU, bias, scales, sums of squares.

Norm and SwiGLU write their result as int8 in the layout that the next kernel reads, one block at a
time from registers. They write it as f32 only if somebody reads that, which is when ``y`` is not
0. The layouts of int8 are left to ``activations``.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.layouts import BLOCK
from edgellama.kernels_cpu.rows.activations import QUANTIZERS, load_block, store_block
from edgellama.kernels_cpu.simd.arithmetic import (
    add,
    div,
    exponential,
    fma,
    mul,
    square_root,
    sub,
    sum_lanes,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    f32_zeros_4,
    f32_zeros_16,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    store,
    write_f32,
)
from edgellama.kernels_cpu.threads.tasks import count_tasks, tasks_of, tokens_at_once

BLOCK_BYTES = 4 * BLOCK
"""Of a block of f32."""
SEGMENT = 1024
"""Columns of one task where a row can be cut: enough to be worth handing out."""
SUMMED_COLUMNS = 128
"""Columns of one task that adds up rows: few, as a task reads them of every row."""


@device
def inverse_rms(x, width, epsilon):
    """1 / sqrt(mean of squares + epsilon) of ``width`` numbers."""
    lanes = lane_count()
    total = f32_zeros()
    end = width // lanes * lanes
    for i in range(0, end, lanes):
        v = load_f32(x + 4 * i, total)
        total = fma(v, v, total)
    rest = np.float32(0.0)
    for i in range(end, width):
        value = read_f32(x + 4 * i)
        rest += value * value
    mean = (sum_lanes(total) + rest) / np.float32(width)
    return np.float32(1.0) / square_root(mean + epsilon)


@device
def scaled(x, weight, scale):
    """As many numbers at ``x`` as ``scale`` has lanes, times it and those at ``weight``."""
    return mul(mul(load_f32(x, scale), scale), load_f32(weight, scale))


@device
def scale_row(x, weight, factor, width, y):
    """y = x * factor * weight; ``width`` is a multiple of four."""
    scale, scale_4 = splat_f32(factor, f32_zeros()), splat_f32(factor, f32_zeros_4())
    end = 4 * (width // lane_count() * lane_count())
    for i in range(0, end, 4 * lane_count()):
        store(y + i, scaled(x + i, weight + i, scale))
    for i in range(end, 4 * width, 16):
        store(y + i, scaled(x + i, weight + i, scale_4))


def _define_leave_block(layout):
    """A block of results, to ``y`` if that is not 0 and as int8 to the layout of its users."""
    quantize_block = QUANTIZERS[layout]

    def leave_block(low, high, y, block, width, token, *quantized):
        if y != 0:
            store_block(y + block * BLOCK_BYTES, (low, high))
        quantize_block((low, high), block, width // BLOCK, *quantized, token)

    return device(leave_block)


def _define_norm_row(layout):
    """y = x * factor * weight for one token, and the same as int8."""
    if layout == "float":

        def norm_row(x, weight, factor, width, y, token, *quantized):
            scale_row(x, weight, factor, width, y)

        return device(norm_row)
    leave_block = _define_leave_block(layout)

    def norm_blocks(x, weight, factor, width, y, token, *quantized):
        scale = splat_f32(factor, f32_zeros_16())
        for block in range(width // BLOCK):
            low = block * BLOCK_BYTES
            high = low + BLOCK_BYTES // 2
            leave_block(
                scaled(x + low, weight + low, scale), scaled(x + high, weight + high, scale),
                y, block, width, token, *quantized,
            )  # fmt: skip

    return device(norm_blocks)


def rms_norm(layout):
    """y = x / rms(x) * weight (Zhang and Sennrich 2019); a few tokens a task."""
    norm_row = _define_norm_row(layout)

    def kernel(
        x, x_stride, width, num_tokens, weight, y, y_stride, epsilon,
        q, q_scale, q_sum, q_half_sum, orders, counter, thread, job,
    ):  # fmt: skip
        at_once = tokens_at_once(num_tokens)
        num_tasks = count_tasks(num_tokens, at_once)
        for task in tasks_of(counter, job, num_tasks):
            for token in range(task * at_once, min((task + 1) * at_once, num_tokens)):
                source = x + token * x_stride
                target = y + token * y_stride if y != 0 else 0
                factor = inverse_rms(source, width, epsilon)
                norm_row(source, weight, factor, width, target, token,
                         q, q_scale, q_sum, q_half_sum, orders)  # fmt: skip

    return kernel


@device
def silu_product(gate, up):
    """gate * sigmoid(gate) * up."""
    one = splat_f32(np.float32(1.0), gate)
    negative = exponential(sub(splat_f32(np.float32(0.0), gate), gate))
    return mul(div(gate, add(one, negative)), up)


def _define_swiglu_segment(layout):
    """The columns from ``first`` to ``last`` of one token; rows are padded to blocks."""
    if layout == "float":

        def multiply(gate, up, y, first, last, width, token, *quantized):
            like = f32_zeros()
            for i in range(4 * first, 4 * last, 4 * lane_count()):
                store(y + i, silu_product(load_f32(gate + i, like), load_f32(up + i, like)))

        return device(multiply)
    leave_block = _define_leave_block(layout)

    def multiply_blocks(gate, up, y, first, last, width, token, *quantized):
        for block in range(first // BLOCK, last // BLOCK):
            low, high = load_block(gate + block * BLOCK_BYTES)
            low_up, high_up = load_block(up + block * BLOCK_BYTES)
            leave_block(
                silu_product(low, low_up), silu_product(high, high_up),
                y, block, width, token, *quantized,
            )  # fmt: skip

    return device(multiply_blocks)


def swiglu(layout):
    """y = silu(gate) * up (Shazeer 2020); one segment of a few tokens a task."""
    multiply = _define_swiglu_segment(layout)

    def kernel(
        gate, up, y, stride, width, num_tokens, q, q_scale, q_sum, q_half_sum, orders,
        counter, thread, job,
    ):  # fmt: skip
        at_once = tokens_at_once(num_tokens)
        num_segments = count_tasks(width, SEGMENT)
        num_tasks = count_tasks(num_tokens, at_once) * num_segments
        for task in tasks_of(counter, job, num_tasks):
            group = task // num_segments
            first = (task - group * num_segments) * SEGMENT
            last = min(first + SEGMENT, width)
            for token in range(group * at_once, min((group + 1) * at_once, num_tokens)):
                row = token * stride
                target = y + row if y != 0 else 0
                multiply(
                    gate + row, up + row, target, first, last, width, token,
                    q, q_scale, q_sum, q_half_sum, orders,
                )  # fmt: skip

    return kernel


def quantize(layout):
    """Rows as int8; a few tokens a task."""
    quantize_block = QUANTIZERS[layout]

    def kernel(
        x, x_stride, width, num_tokens, q, q_scale, q_sum, q_half_sum, orders, counter, thread, job
    ):  # fmt: skip
        num_blocks = width // BLOCK
        at_once = tokens_at_once(num_tokens)
        num_tasks = count_tasks(num_tokens, at_once)
        for task in tasks_of(counter, job, num_tasks):
            for token in range(task * at_once, min((task + 1) * at_once, num_tokens)):
                row = x + token * x_stride
                for block in range(num_blocks):
                    values = load_block(row + block * BLOCK_BYTES)
                    quantize_block(values, block, num_blocks,
                                   q, q_scale, q_sum, q_half_sum, orders, token)  # fmt: skip

    return kernel


def add_bias():
    """x += bias, in place; a few tokens a task."""

    def kernel(x, x_stride, width, num_tokens, bias, counter, thread, job):
        at_once = tokens_at_once(num_tokens)
        num_tasks = count_tasks(num_tokens, at_once)
        for task in tasks_of(counter, job, num_tasks):
            for token in range(task * at_once, min((task + 1) * at_once, num_tokens)):
                for i in range(0, 4 * width, 4):
                    at = x + token * x_stride + i
                    write_f32(at, read_f32(at) + read_f32(bias + i))

    return kernel


def scale_rows():
    """x *= scales, column by column, in place; rows padded to vectors.

    Behind the last row, up to a multiple of ``multiple`` rows, x becomes 0.
    """

    def kernel(x, x_stride, width, num_tokens, multiple, scales, counter, thread, job):
        like = f32_zeros()
        num_rows = count_tasks(num_tokens, multiple) * multiple
        at_once = tokens_at_once(num_rows)
        num_tasks = count_tasks(num_rows, at_once)
        for task in tasks_of(counter, job, num_tasks):
            for row in range(task * at_once, min((task + 1) * at_once, num_rows)):
                at = x + row * x_stride
                for i in range(0, 4 * width, 4 * lane_count()):
                    if row < num_tokens:
                        store(at + i, mul(load_f32(at + i, like), load_f32(scales + i, like)))
                    else:
                        store(at + i, like)

    return kernel


def scale_tokens():
    """x *= scales, token by token, in place; rows padded to vectors."""

    def kernel(x, x_stride, width, num_tokens, scales, counter, thread, job):
        at_once = tokens_at_once(num_tokens)
        num_tasks = count_tasks(num_tokens, at_once)
        for task in tasks_of(counter, job, num_tasks):
            for token in range(task * at_once, min((task + 1) * at_once, num_tokens)):
                at = x + token * x_stride
                scale = splat_f32(read_f32(scales + 4 * token), f32_zeros())
                for i in range(0, 4 * width, 4 * lane_count()):
                    store(at + i, mul(load_f32(at + i, scale), scale))

    return kernel


def sum_squares():
    """sums += x * x over the tokens in order; some columns a task, rows padded to vectors."""

    def kernel(x, x_stride, width, num_tokens, sums, counter, thread, job):
        like = f32_zeros()
        num_tasks = count_tasks(width, SUMMED_COLUMNS)
        for task in tasks_of(counter, job, num_tasks):
            first = task * SUMMED_COLUMNS
            last = min(first + SUMMED_COLUMNS, width)
            for i in range(4 * first, 4 * last, 4 * lane_count()):
                total = like
                for token in range(num_tokens):
                    v = load_f32(x + token * x_stride + i, like)
                    total = fma(v, v, total)
                store(sums + i, add(load_f32(sums + i, like), total))

    return kernel
