"""The parts of attention that handle single rows: the online softmax and the final division.

The algorithm is that of Milakov and Gimelshein (2018), in powers of two: queries are multiplied by
log2(e) beforehand. Weights within a block of keys are relative to the largest score of the block.
``gain`` converts a block's sums to the running maximum, ``shrink`` converts the earlier sums.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.layouts import round_up
from edgellama.kernels_cpu.simd.arithmetic import (
    add,
    mask_from,
    max_lanes,
    maximum,
    mul,
    sub,
    sum_lanes,
)
from edgellama.kernels_cpu.simd.attention_vectors import exp2, zero_from
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    f32_zeros_4,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    store,
    write_f32,
)

LOG2_E = np.float32(1.4426950408889634)
LOWEST = np.float32(-1e30)
"""The running maximum before any key was seen: finite, so that differences to it are numbers."""


@device
def power(x):
    """2**x of one number up to 0."""
    return max_lanes(exp2(splat_f32(x, f32_zeros_4())))


@device
def hide(scores, num_hidden):
    """Keys before a row's window are as if they were not there."""
    for i in range(num_hidden):
        write_f32(scores + 4 * i, np.float32(-np.inf))


@device
def largest_score(scores, visible):
    """Maximum of the first ``visible`` scores."""
    lanes = lane_count()
    whole = visible // lanes * lanes
    largest = splat_f32(np.float32(-np.inf), f32_zeros())
    for i in range(0, whole, lanes):
        largest = maximum(load_f32(scores + 4 * i, largest), largest)
    if whole < visible:
        rest = mask_from(load_f32(scores + 4 * whole, largest), visible - whole)
        largest = maximum(rest, largest)
    return max_lanes(largest)


@device
def weigh(scores, visible, num_keys, largest):
    """Turn scores into 2**(score - largest), zero from ``visible`` on; returns their sum."""
    lanes = lane_count()
    whole = visible // lanes * lanes
    total = f32_zeros()
    shift = splat_f32(largest, total)
    for i in range(0, whole, lanes):
        v = exp2(sub(load_f32(scores + 4 * i, total), shift))
        store(scores + 4 * i, v)
        total = add(total, v)
    if whole < visible:
        v = exp2(sub(load_f32(scores + 4 * whole, total), shift))
        v = zero_from(v, visible - whole)
        store(scores + 4 * whole, v)
        total = add(total, v)
    for i in range(round_up(visible, lanes), num_keys, lanes):
        store(scores + 4 * i, f32_zeros())
    return sum_lanes(total)


@device
def forget_row(statistics):
    """No key seen yet: running maximum, sum of weights."""
    write_f32(statistics, LOWEST)
    write_f32(statistics + 4, np.float32(0.0))


@device
def add_block(statistics, largest, total, shrink):
    """Fold a block of keys into a row's statistics; returns the block's gain."""
    before = read_f32(statistics)
    now = max(before, largest)
    old_factor, gain = power(before - now), power(largest - now)
    write_f32(statistics, now)
    write_f32(statistics + 4, read_f32(statistics + 4) * old_factor + gain * total)
    write_f32(shrink, old_factor)
    return gain


@device
def scale_row(source, factor, num_values, target):
    """target = source * factor."""
    like, wide = f32_zeros_4(), f32_zeros()
    factors, wide_factors = splat_f32(factor, like), splat_f32(factor, wide)
    most, whole = num_values // lane_count() * lane_count(), num_values // 4 * 4
    for i in range(0, 4 * most, 4 * lane_count()):
        store(target + i, mul(load_f32(source + i, wide), wide_factors))
    for i in range(4 * most, 4 * whole, 16):
        store(target + i, mul(load_f32(source + i, like), factors))
    for i in range(4 * whole, 4 * num_values, 4):
        write_f32(target + i, read_f32(source + i) * factor)


@device
def clear(address, num_bytes):
    """Zero f32 memory of whole vectors."""
    for i in range(0, num_bytes, 4 * lane_count()):
        store(address + i, f32_zeros())


@device
def query_at(q, q_stride, group, head_size, row):
    """Where a task's row lies: one of ``group`` heads of a token."""
    return q + row // group * q_stride + row % group * head_size * 4
