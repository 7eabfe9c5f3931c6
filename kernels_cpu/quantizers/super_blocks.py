"""The search for super-blocks: a pair of halves, and small integers that scale each group by them.

The search starts from the scales that each group would choose alone. It then alternates a few
times: integers for fixed quants, quants for fixed integers, halves by least squares; and it keeps
the best result. Each lane has one block. The shape of a format is an argument, so one compilation
serves all formats.
"""

from __future__ import annotations

import functools

import numpy as np

from edgellama.kernels_cpu.quantizers.lane_tiles import vector_bytes
from edgellama.kernels_cpu.quantizers.scale_search import (
    HUGE,
    affine_errors,
    inverse_of,
    nearest_half,
    nearest_whole,
    solve_affine,
    symmetric_errors,
    weight_sums,
)
from edgellama.kernels_cpu.simd import operators  # noqa: F401
from edgellama.kernels_cpu.simd.arithmetic import magnitude, maximum
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import minimum, truncate, where_greater
from edgellama.kernels_cpu.simd.vectors import f32_zeros, load_f32, splat_f32, store

HALF_SPACING = np.float32(2.9e-8)
"""Just under half the distance of the smallest halves."""
GROUP_VECTORS = 16
"""Most groups of a super-block; every quantity of the groups has as many vectors."""


@exact_device
def half_not_below(x):
    """A half of about x; for tiny x, where halves lie far apart, one of no less magnitude."""
    spacing = splat_f32(HALF_SPACING, x)
    zero = f32_zeros()
    away = where_greater(zero, x, zero - spacing, where_greater(x, zero, spacing, zero))
    return nearest_half(x + away)


@exact_device
def cell(groups, quantity, group):
    """Where a quantity of a group is kept."""
    return groups + (quantity * GROUP_VECTORS + group) * vector_bytes()


@exact_device
def get(groups, quantity, group):
    return load_f32(cell(groups, quantity, group), f32_zeros())


@exact_device
def put(groups, quantity, group, value):
    store(cell(groups, quantity, group), value)


@exact_device
def largest_of_groups(groups, quantity, num_groups):
    """The value of greatest magnitude among the groups', with its sign."""
    largest = f32_zeros()
    for group in range(num_groups):
        value = get(groups, quantity, group)
        largest = where_greater(magnitude(value), magnitude(largest), value, largest)
    return largest


@exact_device
def keep_better(groups, from_quantity, to_quantity, num_groups, gain, best):
    """Copy a quantity in the lanes where the gain is greater than the best one."""
    for group in range(num_groups):
        new, old = get(groups, from_quantity, group), get(groups, to_quantity, group)
        put(groups, to_quantity, group, where_greater(gain, best, new, old))


# Quantities of a group, by the place where they are kept.
SCALE, MINIMUM, SUM_W, SUM_X, L1, L2, LX, MULTIPLE, MIN_MULTIPLE, BEST, MIN_BEST = range(11)
NUM_QUANTITIES = 11


# With minimums: weights are d s l - dmin m; shape is (groups, group size, top, levels, rounds)


@exact_device
def measure_group(x, w, groups, group, shape, scale, low):
    """Put the group's sums for quants of this scale and minimum; returns the squared error."""
    _, group_size, top, _, _ = shape
    at = group * group_size * vector_bytes()
    l1, l2, lx, error = affine_errors(x + at, w + at, group_size, top, scale, f32_zeros() - low)
    put(groups, L1, group, l1)
    put(groups, L2, group, l2)
    put(groups, LX, group, lx)
    return error


@exact_device
def choose_multiples(groups, group, levels, d, dmin):
    """The integers that suit the group's present quants best."""
    sum_w, sum_x = get(groups, SUM_W, group), get(groups, SUM_X, group)
    l1, l2, lx = get(groups, L1, group), get(groups, L2, group), get(groups, LX, group)
    wanted, _, _ = solve_affine(sum_w, sum_x, l1, l2, lx, f32_zeros())
    zero = np.float32(0.0)
    center = nearest_whole(wanted * inverse_of(d), zero, levels)
    per_dmin, per_weight = inverse_of(dmin), inverse_of(sum_w)
    best, chosen, min_chosen = splat_f32(-HUGE, d), center, f32_zeros()
    for k in range(-1, 2):
        multiple = nearest_whole(center + np.float32(k), zero, levels)
        scale = d * multiple
        low = (scale * l1 - sum_x) * per_weight
        min_multiple = nearest_whole(low * per_dmin, zero, levels)
        low = dmin * min_multiple
        gain = scale * (lx + lx - scale * l2)
        gain = gain - low * (sum_x + sum_x + low * sum_w - (scale + scale) * l1)
        chosen = where_greater(gain, best, multiple, chosen)
        min_chosen = where_greater(gain, best, min_multiple, min_chosen)
        best = maximum(gain, best)
    put(groups, MULTIPLE, group, chosen)
    put(groups, MIN_MULTIPLE, group, min_chosen)
    return chosen, min_chosen


@exact_device
def refit_affine(groups, num_groups):
    """d and dmin by least squares, for the present integers and quants."""
    aa = ab = bb = ax = bx = f32_zeros()
    for group in range(num_groups):
        a, b = get(groups, MULTIPLE, group), get(groups, MIN_MULTIPLE, group)
        aa = aa + a * a * get(groups, L2, group)
        ab = ab + a * b * get(groups, L1, group)
        bb = bb + b * b * get(groups, SUM_W, group)
        ax = ax + a * get(groups, LX, group)
        bx = bx + b * get(groups, SUM_X, group)
    determinant = aa * bb - ab * ab
    dmin = (ab * ax - aa * bx) / determinant
    dmin = maximum(where_greater(determinant, f32_zeros(), dmin, f32_zeros()), f32_zeros())
    return nearest_half((ax + dmin * ab) / aa), nearest_half(dmin)


@exact_device
def begin_affine(x, w, groups, shape):
    """Sums of the groups with the scales that they would like."""
    num_groups, group_size, _, _, _ = shape
    for group in range(num_groups):
        at = group * group_size * vector_bytes()
        sum_w, sum_x = weight_sums(x + at, w + at, group_size)
        put(groups, SUM_W, group, sum_w)
        put(groups, SUM_X, group, sum_x)
        scale, low = get(groups, SCALE, group), get(groups, MINIMUM, group)
        measure_group(x, w, groups, group, shape, scale, low)
        put(groups, BEST, group, f32_zeros())
        put(groups, MIN_BEST, group, f32_zeros())


@exact_device
def affine_super_block(x, w, groups, shape):
    """Chooses d, dmin and the integers, from 0 to ``levels``.

    Expects SCALE and MINIMUM, the latter not negative; leaves the integers in BEST and MIN_BEST.
    """
    num_groups, _, _, levels, num_rounds = shape
    begin_affine(x, w, groups, shape)
    d = half_not_below(largest_of_groups(groups, SCALE, num_groups) / levels)
    dmin = half_not_below(largest_of_groups(groups, MINIMUM, num_groups) / levels)
    best, best_d, best_dmin = splat_f32(-HUGE, d), d, dmin
    for _ in range(num_rounds):
        gain = f32_zeros()
        for group in range(num_groups):
            multiple, min_multiple = choose_multiples(groups, group, levels, d, dmin)
            scale, low = d * multiple, dmin * min_multiple
            gain = gain - measure_group(x, w, groups, group, shape, scale, low)
        keep_better(groups, MULTIPLE, BEST, num_groups, gain, best)
        keep_better(groups, MIN_MULTIPLE, MIN_BEST, num_groups, gain, best)
        best_d = where_greater(gain, best, d, best_d)
        best_dmin = where_greater(gain, best, dmin, best_dmin)
        best = maximum(gain, best)
        d, dmin = refit_affine(groups, num_groups)
    return best_d, best_dmin


@exact_device
def affine_quants(x, groups, shape, d, dmin, quants, integers):
    """Writes the quants of the chosen integers, as i32, and the integers themselves likewise."""
    num_groups, group_size, top, _, _ = shape
    for group in range(num_groups):
        multiple, min_multiple = get(groups, BEST, group), get(groups, MIN_BEST, group)
        store(integers + group * vector_bytes(), truncate(multiple))
        store(integers + (GROUP_VECTORS + group) * vector_bytes(), truncate(min_multiple))
        inverse, low = inverse_of(d * multiple), f32_zeros() - dmin * min_multiple
        for i in range(group * group_size, (group + 1) * group_size):
            at = i * vector_bytes()
            quant = (load_f32(x + at, low) - low) * inverse
            store(quants + at, truncate(nearest_whole(quant, np.float32(0.0), top)))


# Scales alone: weights are d s l; shape is (groups, group size, half, levels, rounds)


@functools.cache
def symmetric_super_block(nearest):
    """For one grid: chooses d and the integers, from ``-levels`` to ``levels - 1``.

    Expects SCALE; leaves the integers in BEST.
    """
    evaluate = symmetric_errors(nearest)

    @exact_device
    def choose_multiple(x, w, groups, group, shape, d):
        """The integer with the least error, among those next to the scale that is wanted."""
        _, group_size, half, levels, _ = shape
        at = group * group_size * vector_bytes()
        bottom, top = -levels, levels - np.float32(1.0)
        center = nearest_whole(get(groups, SCALE, group) * inverse_of(d), bottom, top)
        best, chosen = splat_f32(HUGE, d), center
        best_lx = best_l2 = f32_zeros()
        for k in range(-1, 2):
            multiple = nearest_whole(center + np.float32(k), bottom, top)
            lx, l2, error = evaluate(x + at, w + at, group_size, half, d * multiple)
            chosen = where_greater(best, error, multiple, chosen)
            best_lx = where_greater(best, error, lx, best_lx)
            best_l2 = where_greater(best, error, l2, best_l2)
            best = minimum(error, best)
        put(groups, MULTIPLE, group, chosen)
        return chosen, best_lx, best_l2, best

    def choose(x, w, groups, shape):
        num_groups, _, _, levels, num_rounds = shape
        d = half_not_below(largest_of_groups(groups, SCALE, num_groups) / -levels)
        best, best_d = splat_f32(-HUGE, d), d
        for group in range(num_groups):
            put(groups, BEST, group, f32_zeros())
        for _ in range(num_rounds):
            gain = aa = ax = f32_zeros()
            for group in range(num_groups):
                multiple, lx, l2, error = choose_multiple(x, w, groups, group, shape, d)
                gain = gain - error
                aa, ax = aa + multiple * multiple * l2, ax + multiple * lx
                wanted = where_greater(l2, f32_zeros(), lx / l2, d * multiple)
                put(groups, SCALE, group, wanted)
            keep_better(groups, MULTIPLE, BEST, num_groups, gain, best)
            best_d = where_greater(gain, best, d, best_d)
            best = maximum(gain, best)
            d = nearest_half(ax / aa)
        return best_d

    return exact_device(choose)


@functools.cache
def symmetric_quants(number):
    """For one grid: writes quants, as i32 from 0, and the integers, ``offset`` larger, as bytes."""

    def quantize(x, groups, shape, offset, d, quants, integers):
        num_groups, group_size, half, _, _ = shape
        for group in range(num_groups):
            multiple = get(groups, BEST, group)
            store(integers + group * vector_bytes(), truncate(multiple + offset) & 255)
            inverse = inverse_of(d * multiple)
            for i in range(group * group_size, (group + 1) * group_size):
                at = i * vector_bytes()
                store(quants + at, number(load_f32(x + at, d) * inverse, half))

    return exact_device(quantize)
