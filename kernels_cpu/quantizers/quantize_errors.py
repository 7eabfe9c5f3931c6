"""Measures how far restored rows are from the original ones, row by row.

The errors of a block of 32 are summed in f32 in a fixed order, those of a row's blocks in f64. So
the result is the same on every tier and however a tensor is cut into rows.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.simd.arithmetic import mul, sub, sum_lanes
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import (
    count_not_finite,
    f32_zeros_1,
    f32_zeros_32,
    write_f64,
    write_i64,
)
from edgellama.kernels_cpu.simd.vectors import load_f32

BLOCK = 32
SUMS_BYTES = 32
"""Of a row: f64 squared error, f64 squares, f64 squared error of the worst block, i64 count."""


@exact_device
def difference_sums(x, y, like):
    """Sums of (x - y)² and x² over as many numbers as ``like`` has lanes, and bad ones among x."""
    values = load_f32(x, like)
    error = sub(values, load_f32(y, like))
    squares = sum_lanes(mul(values, values))
    return sum_lanes(mul(error, error)), squares, count_not_finite(values)


@exact_device
def row_sums(x, y, num_columns, sums):
    """The sums of one row, written to ``sums``; a last block may be short."""
    total_error, total_squares, worst = 0.0, 0.0, 0.0
    num_not_finite = 0
    end = num_columns // BLOCK * BLOCK
    for i in range(0, end, BLOCK):
        error, squares, bad = difference_sums(x + 4 * i, y + 4 * i, f32_zeros_32())
        wide = np.float64(error)
        total_error += wide
        total_squares += np.float64(squares)
        worst = max(worst, wide)
        num_not_finite += bad
    worst *= 1.0 / BLOCK
    if end < num_columns:
        block_error = 0.0
        for i in range(end, num_columns):
            error, squares, bad = difference_sums(x + 4 * i, y + 4 * i, f32_zeros_1())
            block_error += np.float64(error)
            total_squares += np.float64(squares)
            num_not_finite += bad
        total_error += block_error
        worst = max(worst, block_error / (num_columns - end))
    write_f64(sums, total_error)
    write_f64(sums + 8, total_squares)
    write_f64(sums + 16, worst)
    write_i64(sums + 24, num_not_finite)


def measure():
    """Sums of every row of x against y, ``SUMS_BYTES`` each."""

    def kernel(x, y, num_rows, num_columns, sums, thread, job):
        for row in range(num_rows):
            at = 4 * row * num_columns
            row_sums(x + at, y + at, num_columns, sums + SUMS_BYTES * row)

    return kernel
