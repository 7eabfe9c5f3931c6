"""Super-blocks: one pair of halves, and small integers times it for the scale of every group.

Given the scales that each group would like, the integers and the halves are chosen with the
quants that follow from them: integers for fixed quants, quants for fixed integers, then the
halves by least squares, a few times over; the best of all is kept. A block lies in each lane.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu import simd_operators  # noqa: F401
from edgellama.kernels_cpu.device import exact_device
from edgellama.kernels_cpu.lane_tiles import vector_bytes
from edgellama.kernels_cpu.scale_search import (
    HUGE,
    affine_errors,
    inverse_of,
    nearest_half,
    rounder,
    solve_affine,
    symmetric_errors,
    weight_sums,
)
from edgellama.kernels_cpu.simd import f32_zeros, load_f32, splat_f32, store
from edgellama.kernels_cpu.simd_exact import minimum, truncate, where_greater
from edgellama.kernels_cpu.simd_math import magnitude, maximum

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


def affine_super_block(nearest, num_groups, group_size, levels, num_rounds):
    """Chooses d, dmin and integers up to ``levels``; weights are d s l - dmin m.

    Expects SCALE and MINIMUM, the latter not negative, leaves the integers in BEST and MIN_BEST
    and returns d and dmin.
    """
    nearest_level = rounder(0, levels)
    evaluate = affine_errors(nearest, group_size)

    @exact_device
    def measure_group(x, w, groups, group, scale, low):
        l1, l2, lx, error = evaluate(x, w, scale, low)
        put(groups, L1, group, l1)
        put(groups, L2, group, l2)
        put(groups, LX, group, lx)
        return error

    @exact_device
    def choose_multiples(groups, group, d, dmin):
        """The integers that suit the group's present quants best."""
        sum_w, sum_x = get(groups, SUM_W, group), get(groups, SUM_X, group)
        l1, l2, lx = get(groups, L1, group), get(groups, L2, group), get(groups, LX, group)
        wanted, _, _ = solve_affine(sum_w, sum_x, l1, l2, lx, f32_zeros())
        center = nearest_level(wanted * inverse_of(d))
        per_dmin, per_weight = inverse_of(dmin), inverse_of(sum_w)
        best = splat_f32(-HUGE, d)
        chosen, min_chosen = center, f32_zeros()
        for k in range(-1, 2):
            multiple = nearest_level(center + np.float32(k))
            scale = d * multiple
            low = (scale * l1 - sum_x) * per_weight
            min_multiple = nearest_level(low * per_dmin)
            low = dmin * min_multiple
            gain = scale * (lx + lx - scale * l2) - low * (
                sum_x + sum_x + low * sum_w - (scale + scale) * l1
            )
            chosen = where_greater(gain, best, multiple, chosen)
            min_chosen = where_greater(gain, best, min_multiple, min_chosen)
            best = maximum(gain, best)
        put(groups, MULTIPLE, group, chosen)
        put(groups, MIN_MULTIPLE, group, min_chosen)
        return chosen, min_chosen

    @exact_device
    def refit(groups):
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

    def choose(x, w, groups):
        group_bytes = group_size * vector_bytes()
        for group in range(num_groups):
            at = group * group_bytes
            sum_w, sum_x = weight_sums(x + at, w + at, group_size)
            put(groups, SUM_W, group, sum_w)
            put(groups, SUM_X, group, sum_x)
            scale, low = get(groups, SCALE, group), get(groups, MINIMUM, group)
            measure_group(x + at, w + at, groups, group, scale, low)
            put(groups, BEST, group, f32_zeros())
            put(groups, MIN_BEST, group, f32_zeros())
        d = half_not_below(largest_of_groups(groups, SCALE, num_groups) / np.float32(levels))
        dmin = half_not_below(largest_of_groups(groups, MINIMUM, num_groups) / np.float32(levels))
        best, best_d, best_dmin = splat_f32(-HUGE, d), d, dmin
        for _ in range(num_rounds):
            gain = f32_zeros()
            for group in range(num_groups):
                at = group * group_bytes
                multiple, min_multiple = choose_multiples(groups, group, d, dmin)
                gain = gain - measure_group(
                    x + at, w + at, groups, group, d * multiple, dmin * min_multiple
                )
            keep_better(groups, MULTIPLE, BEST, num_groups, gain, best)
            keep_better(groups, MIN_MULTIPLE, MIN_BEST, num_groups, gain, best)
            best_d = where_greater(gain, best, d, best_d)
            best_dmin = where_greater(gain, best, dmin, best_dmin)
            best = maximum(gain, best)
            d, dmin = refit(groups)
        return best_d, best_dmin

    return exact_device(choose)


def affine_quants(nearest, num_groups, group_size):
    """Writes the quants of the chosen integers, as i32, and the integers themselves likewise."""

    def quantize(x, groups, d, dmin, quants, integers):
        for group in range(num_groups):
            multiple, min_multiple = get(groups, BEST, group), get(groups, MIN_BEST, group)
            store(integers + group * vector_bytes(), truncate(multiple))
            store(integers + (GROUP_VECTORS + group) * vector_bytes(), truncate(min_multiple))
            inverse, low = inverse_of(d * multiple), dmin * min_multiple
            for i in range(group * group_size, (group + 1) * group_size):
                value = load_f32(x + i * vector_bytes(), low)
                store(quants + i * vector_bytes(), truncate(nearest((value + low) * inverse)))

    return exact_device(quantize)


def symmetric_super_block(nearest, num_groups, group_size, lowest, highest, num_rounds):
    """Chooses d and integers from ``lowest`` to ``highest``; weights are d s l.

    Expects SCALE, leaves the integers in BEST and returns d.
    """
    nearest_multiple = rounder(lowest, highest)
    evaluate = symmetric_errors(nearest, group_size)

    @exact_device
    def choose_multiple(x, w, groups, group, d):
        """The integer with the least error, among those next to the scale that is wanted."""
        center = nearest_multiple(get(groups, SCALE, group) * inverse_of(d))
        best, chosen = splat_f32(HUGE, d), center
        best_lx = best_l2 = f32_zeros()
        for k in range(-1, 2):
            multiple = nearest_multiple(center + np.float32(k))
            lx, l2, error = evaluate(x, w, d * multiple)
            chosen = where_greater(best, error, multiple, chosen)
            best_lx = where_greater(best, error, lx, best_lx)
            best_l2 = where_greater(best, error, l2, best_l2)
            best = minimum(error, best)
        put(groups, MULTIPLE, group, chosen)
        return chosen, best_lx, best_l2, best

    def choose(x, w, groups):
        d = half_not_below(largest_of_groups(groups, SCALE, num_groups) / np.float32(lowest))
        best, best_d = splat_f32(-HUGE, d), d
        for group in range(num_groups):
            put(groups, BEST, group, f32_zeros())
        for _ in range(num_rounds):
            gain = aa = ax = f32_zeros()
            for group in range(num_groups):
                at = group * group_size * vector_bytes()
                multiple, lx, l2, error = choose_multiple(x + at, w + at, groups, group, d)
                gain = gain - error
                aa, ax = aa + multiple * multiple * l2, ax + multiple * lx
                wanted = lx / l2
                put(groups, SCALE, group, where_greater(l2, f32_zeros(), wanted, d * multiple))
            keep_better(groups, MULTIPLE, BEST, num_groups, gain, best)
            best_d = where_greater(gain, best, d, best_d)
            best = maximum(gain, best)
            d = nearest_half(ax / aa)
        return best_d

    return exact_device(choose)


def symmetric_quants(number, num_groups, group_size, integer_offset):
    """Writes the quants of the chosen integers, as i32, and the integers as bytes likewise."""

    def quantize(x, groups, d, quants, integers):
        for group in range(num_groups):
            multiple = get(groups, BEST, group)
            stored = truncate(multiple + np.float32(integer_offset))
            store(integers + group * vector_bytes(), stored & 255)
            inverse = inverse_of(d * multiple)
            for i in range(group * group_size, (group + 1) * group_size):
                at = i * vector_bytes()
                store(quants + at, number(load_f32(x + at, d) * inverse))

    return exact_device(quantize)
