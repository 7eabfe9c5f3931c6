"""Kernels that work along rows of f32 activations: norm, SwiGLU, bias, sums of squares.

Norm and SwiGLU also leave their result as int8 in the layout that its users read, while the
row is still in the cache.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.activations import BLOCK, QUANTIZERS
from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import (
    f32_zeros,
    f32_zeros_4,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    store,
    write_f32,
)
from edgellama.kernels_cpu.simd_math import (
    add,
    div,
    exponential,
    fma,
    mul,
    square_root,
    sub,
    sum_lanes,
)
from edgellama.kernels_cpu.tasks import claim, finish

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
def scale_row(x, weight, factor, width, y):
    """y = x * factor * weight; ``width`` is a multiple of four."""
    like = f32_zeros_4()
    scale = splat_f32(factor, like)
    for i in range(0, 4 * width, 16):
        store(y + i, mul(mul(load_f32(x + i, like), scale), load_f32(weight + i, like)))


def rms_norm(layout):
    """y = x / rms(x) * weight (Zhang and Sennrich 2019); one token a task."""
    quantize = QUANTIZERS[layout]

    def kernel(
        x, x_stride, width, num_tokens, weight, y, y_stride, epsilon,
        q, q_scale, q_sum, q_half_sum, counter, thread, job,
    ):  # fmt: skip
        num_blocks = width // BLOCK
        num_done = 0
        token = claim(counter, job, num_tokens)
        while token < num_tokens:
            source, target = x + token * x_stride, y + token * y_stride
            scale_row(source, weight, inverse_rms(source, width, epsilon), width, target)
            quantize(target, 0, num_blocks, num_blocks, q, q_scale, q_sum, q_half_sum, token)
            num_done += 1
            token = claim(counter, job, num_tokens)
        finish(counter, num_done, num_tokens)

    return kernel


@device
def silu_product(gate, up):
    """gate * sigmoid(gate) * up."""
    one = splat_f32(np.float32(1.0), gate)
    negative = exponential(sub(splat_f32(np.float32(0.0), gate), gate))
    return mul(div(gate, add(one, negative)), up)


def swiglu(layout):
    """y = silu(gate) * up (Shazeer 2020); one segment of a token a task, rows padded to blocks."""
    quantize = QUANTIZERS[layout]

    def kernel(
        gate, up, y, stride, width, num_tokens, q, q_scale, q_sum, q_half_sum, counter, thread, job
    ):  # fmt: skip
        like = f32_zeros()
        num_segments = (width + SEGMENT - 1) // SEGMENT
        num_tasks = num_tokens * num_segments
        num_done = 0
        task = claim(counter, job, num_tasks)
        while task < num_tasks:
            token = task // num_segments
            first = (task - token * num_segments) * SEGMENT
            last = min(first + SEGMENT, width)
            row = token * stride
            for i in range(row + 4 * first, row + 4 * last, 4 * lane_count()):
                store(y + i, silu_product(load_f32(gate + i, like), load_f32(up + i, like)))
            quantize(y + row, first // BLOCK, last // BLOCK, width // BLOCK,
                     q, q_scale, q_sum, q_half_sum, token)  # fmt: skip
            num_done += 1
            task = claim(counter, job, num_tasks)
        finish(counter, num_done, num_tasks)

    return kernel


def quantize(layout):
    """Rows as int8; one token a task."""
    quantize_row = QUANTIZERS[layout]

    def kernel(
        x, x_stride, width, num_tokens, q, q_scale, q_sum, q_half_sum, counter, thread, job
    ):  # fmt: skip
        num_blocks = width // BLOCK
        num_done = 0
        token = claim(counter, job, num_tokens)
        while token < num_tokens:
            at = x + token * x_stride
            quantize_row(at, 0, num_blocks, num_blocks, q, q_scale, q_sum, q_half_sum, token)
            num_done += 1
            token = claim(counter, job, num_tokens)
        finish(counter, num_done, num_tokens)

    return kernel


def add_bias():
    """x += bias, in place; one token a task."""

    def kernel(x, x_stride, width, num_tokens, bias, counter, thread, job):
        num_done = 0
        token = claim(counter, job, num_tokens)
        while token < num_tokens:
            for i in range(0, 4 * width, 4):
                at = x + token * x_stride + i
                write_f32(at, read_f32(at) + read_f32(bias + i))
            num_done += 1
            token = claim(counter, job, num_tokens)
        finish(counter, num_done, num_tokens)

    return kernel


def sum_squares():
    """sums += x * x over the tokens in order; some columns a task, rows padded to vectors."""

    def kernel(x, x_stride, width, num_tokens, sums, counter, thread, job):
        like = f32_zeros()
        num_tasks = (width + SUMMED_COLUMNS - 1) // SUMMED_COLUMNS
        num_done = 0
        task = claim(counter, job, num_tasks)
        while task < num_tasks:
            first = task * SUMMED_COLUMNS
            last = min(first + SUMMED_COLUMNS, width)
            for i in range(4 * first, 4 * last, 4 * lane_count()):
                total = like
                for token in range(num_tokens):
                    v = load_f32(x + token * x_stride + i, like)
                    total = fma(v, v, total)
                store(sums + i, add(load_f32(sums + i, like), total))
            num_done += 1
            task = claim(counter, job, num_tasks)
        finish(counter, num_done, num_tasks)

    return kernel
