"""How much an error in each number of a tile counts in the search.

The choices are those of ggml. Without importance, an error counts more in larger numbers. With it,
an error counts by the importance of its column, and more in numbers that are large in their
block.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.quantizers.lane_tiles import vector_bytes
from edgellama.kernels_cpu.simd import operators  # noqa: F401
from edgellama.kernels_cpu.simd.arithmetic import magnitude
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import square_roots
from edgellama.kernels_cpu.simd.vectors import f32_zeros, load_f32, store

GROUP = 32


@exact_device
def mean_square(x, count):
    """Mean of x² over a run of vectors."""
    total = f32_zeros()
    for i in range(count):
        value = load_f32(x + i * vector_bytes(), total)
        total = total + value * value
    return total / np.float32(count)


@exact_device
def weigh_by_group(x, w, size, share):
    """w = |x| + root mean square of the group of 32."""
    for first in range(0, size, GROUP):
        level = square_roots(mean_square(x + first * vector_bytes(), GROUP))
        for i in range(first, first + GROUP):
            at = i * vector_bytes()
            store(w + at, level + magnitude(load_f32(x + at, level)))


@exact_device
def weigh_by_magnitude(x, w, size, share):
    """w = |x| + share * root mean square: with some share small numbers are not given up."""
    level = square_roots(mean_square(x, size)) * share
    for i in range(size):
        at = i * vector_bytes()
        store(w + at, magnitude(load_f32(x + at, level)) + level)


@exact_device
def weigh_by_square(x, w, size, share):
    """w = x² + share * mean x², for the same reason."""
    level = mean_square(x, size) * share
    for i in range(size):
        at = i * vector_bytes()
        value = load_f32(x + at, level)
        store(w + at, value * value + level)


@exact_device
def multiply_importance(x, w, size, level):
    """w = importance * sqrt(level + x²), the importance lying in ``w``."""
    for i in range(size):
        at = i * vector_bytes()
        value = load_f32(x + at, level)
        store(w + at, load_f32(w + at, level) * square_roots(level + value * value))


@exact_device
def weigh_by_importance(x, w, size, factor):
    """w = importance * sqrt(factor * mean x² of the block + x²), the importance lying in ``w``."""
    multiply_importance(x, w, size, mean_square(x, size) * factor)


@exact_device
def leave_importance(x, w, size, factor):
    """The importance itself is the weight."""
