"""Kernels that work along rows of f32 activations: norm, SwiGLU and bias.

All split their work in the same way, in units of 32 numbers, so that ops that follow one
another on the same rows need no barrier between them.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import (
    add,
    div,
    exponential,
    f32_zeros,
    f32_zeros_4,
    fma,
    lane_count,
    load_f32,
    mul,
    read_f32,
    splat_f32,
    square_root,
    store,
    sub,
    sum_lanes,
    write_f32,
)

UNIT = 32
"""Numbers in one unit of work: one quantization block."""


@device
def unit_range(num_units, thread, num_threads):
    """First and one past the last unit of a thread."""
    return num_units * thread // num_threads, num_units * (thread + 1) // num_threads


@device
def columns_of_unit(unit, units_per_row, width):
    """Token, first and one past the last column of a unit; the last of a row may be shorter."""
    token = unit // units_per_row
    start = (unit - token * units_per_row) * UNIT
    return token, start, min(start + UNIT, width)


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


def rms_norm():
    """y = x / rms(x) * weight (Zhang and Sennrich 2019)."""

    def kernel(x, x_stride, width, num_tokens, weight, y, y_stride, epsilon, thread, num_threads):
        like = f32_zeros_4()
        per_row = (width + UNIT - 1) // UNIT
        first, last = unit_range(num_tokens * per_row, thread, num_threads)
        known_token = -1
        factor = np.float32(0.0)
        for unit in range(first, last):
            token, start, end = columns_of_unit(unit, per_row, width)
            source, target = x + token * x_stride, y + token * y_stride
            if token != known_token:
                factor = inverse_rms(source, width, epsilon)
                known_token = token
            scale = splat_f32(factor, like)
            whole = start + (end - start) // 4 * 4
            for i in range(start, whole, 4):
                scaled = mul(load_f32(source + 4 * i, like), scale)
                store(target + 4 * i, mul(scaled, load_f32(weight + 4 * i, like)))
            for i in range(whole, end):
                write_f32(
                    target + 4 * i, read_f32(source + 4 * i) * factor * read_f32(weight + 4 * i)
                )

    return kernel


@device
def silu_product(gate, up):
    """gate * sigmoid(gate) * up."""
    one = splat_f32(np.float32(1.0), gate)
    negative = exponential(sub(splat_f32(np.float32(0.0), gate), gate))
    return mul(div(gate, add(one, negative)), up)


def swiglu():
    """y = silu(gate) * up (Shazeer 2020); rows are padded to whole units."""

    def kernel(gate, up, y, stride, width, num_tokens, thread, num_threads):
        like = f32_zeros()
        lanes = lane_count()
        per_row = (width + UNIT - 1) // UNIT
        first, last = unit_range(num_tokens * per_row, thread, num_threads)
        for unit in range(first, last):
            token, start, _ = columns_of_unit(unit, per_row, width)
            for i in range(start, start + UNIT, lanes):
                at = token * stride + 4 * i
                store(y + at, silu_product(load_f32(gate + at, like), load_f32(up + at, like)))

    return kernel


def add_bias():
    """x += bias, in place."""

    def kernel(x, x_stride, width, num_tokens, bias, thread, num_threads):
        per_row = (width + UNIT - 1) // UNIT
        first, last = unit_range(num_tokens * per_row, thread, num_threads)
        for unit in range(first, last):
            token, start, end = columns_of_unit(unit, per_row, width)
            for i in range(start, end):
                at = x + token * x_stride + 4 * i
                write_f32(at, read_f32(at) + read_f32(bias + 4 * i))

    return kernel
