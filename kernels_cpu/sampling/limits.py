"""Finds the last value that top-k or top-p keeps, without sorting the logits.

The logits are a row in memory, or the list of some of them that ``collect`` makes. They are
compared in groups of 64; the maximum of each group tells whether a limit concerns it.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.layouts import SELECTION_GROUP as GROUP
from edgellama.kernels_cpu.sampling.layout import GROUP_BYTES
from edgellama.kernels_cpu.simd.arithmetic import add, max_lanes, sum_lanes
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import first_bit, where_greater, write_i32
from edgellama.kernels_cpu.simd.selection import (
    bits_at_least,
    bits_not_numbers,
    bits_of_f32,
    count_bits,
    f32_of_bits,
    f32_zeros_64,
)
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    store,
    write_f32,
)

HALVINGS = 8
"""Of the range that the last value of top-p is searched in, before it is listed."""
LOWEST = np.float32(-np.inf)


@exact_device
def group_address(x, num_values, last, group):
    """Where a group of 64 lies; one that is not whole is the padded copy at ``last``."""
    return x + group * GROUP_BYTES if (group + 1) * GROUP <= num_values else last


@exact_device
def pad(address, number):
    """One number in the 64 places from ``address`` on."""
    for i in range(0, GROUP_BYTES, 4 * lane_count()):
        store(address + i, splat_f32(number, f32_zeros()))


@exact_device
def scan(x, num_values, last, maxima):
    """Write the end to ``last``, the largest of each group to ``maxima``; returns their largest.

    It is NaN if any logit is.
    """
    whole = num_values // GROUP * GROUP
    pad(last, LOWEST)
    for i in range(whole, num_values):
        write_f32(last + 4 * (i - whole), read_f32(x + 4 * i))
    num_groups = (num_values + GROUP - 1) // GROUP
    largest, strange = LOWEST, 0
    for group in range(num_groups):
        values = load_f32(group_address(x, num_values, last, group), f32_zeros_64())
        strange |= bits_not_numbers(values)
        most = max_lanes(values)
        write_f32(maxima + 4 * group, most)
        largest = max(largest, most)
    pad(maxima + 4 * num_groups, LOWEST)
    return largest if strange == 0 else np.float32(np.nan)


@exact_device
def collect(x, num_values, last, maxima, limit, num_equal, values, tokens):
    """List the logits above ``limit`` and the first ``num_equal`` that equal it, by token.

    Writes padded ``values`` and the numbers of their ``tokens``; returns how many there are.
    """
    num_groups = (num_values + GROUP - 1) // GROUP
    count = 0
    for first in range(0, num_groups, GROUP):
        concerned = bits_at_least(load_f32(maxima + 4 * first, f32_zeros_64()), limit)
        while concerned != 0:
            group = first + first_bit(concerned)
            concerned &= concerned - 1
            if group >= num_groups:
                break
            at = group_address(x, num_values, last, group)
            reached = bits_at_least(load_f32(at, f32_zeros_64()), limit)
            while reached != 0:
                token = group * GROUP + first_bit(reached)
                reached &= reached - 1
                value = read_f32(at + 4 * (token - group * GROUP))
                if token < num_values and (value > limit or num_equal > 0):
                    num_equal -= value == limit
                    write_f32(values + 4 * count, value)
                    write_i32(tokens + 4 * count, token)
                    count += 1
    pad(values + 4 * count, LOWEST)
    return count


@exact_device
def count_at_least(values, count, limit):
    """How many values of a list reach ``limit``, which is above minus infinity."""
    found = 0
    for i in range(0, 4 * count, GROUP_BYTES):
        found += count_bits(bits_at_least(load_f32(values + i, f32_zeros_64()), limit))
    return found


@exact_device
def weight_at_least(values, weights, count, limit):
    """The weight of the values of a list that reach ``limit``."""
    total = 0.0
    zeros = f32_zeros()
    limits = splat_f32(limit, zeros)
    for i in range(0, 4 * count, GROUP_BYTES):
        part = zeros
        for j in range(i, i + GROUP_BYTES, 4 * lane_count()):
            weight = load_f32(weights + j, zeros)
            part = add(part, where_greater(limits, load_f32(values + j, zeros), zeros, weight))
        total += np.float64(sum_lanes(part))
    return total


@exact_device
def order_of(bits):
    """From an f32's bits to a number that rises with it, or back."""
    return bits if bits >= 0 else bits ^ 0x7FFFFFFF


@exact_device
def next_above(limit):
    """The smallest f32 above ``limit``."""
    return f32_of_bits(order_of(order_of(bits_of_f32(limit)) + 1))


def _define_largest_value(measure):
    """A device function: the largest f32 for which ``measure`` of a list reaches what is wanted.

    By bisection over all f32 from ``low``, which counts as reaching it, to ``high``.
    """

    @exact_device
    def largest_value(measured, wanted, low, high):
        lowest, highest = order_of(bits_of_f32(low)), order_of(bits_of_f32(high))
        while lowest < highest:
            middle = lowest + (highest - lowest + 1) // 2
            if measure(*measured, f32_of_bits(order_of(middle))) >= wanted:
                lowest = middle
            else:
                highest = middle - 1
        return f32_of_bits(order_of(lowest))

    return largest_value


value_at_count = _define_largest_value(count_at_least)
value_at_weight = _define_largest_value(weight_at_least)


@exact_device
def narrow(values, weights, count, wanted, low, high):
    """Leave in a list those that may weigh ``wanted`` with all larger ones, between two bounds.

    Returns how many are left, the bounds and the weight above them.
    """
    for _ in range(HALVINGS):
        middle = np.float32(0.5) * low + np.float32(0.5) * high
        if weight_at_least(values, weights, count, middle) >= wanted:
            low = middle
        else:
            high = middle
    above = weight_at_least(values, weights, count, next_above(high))
    left = 0
    for i in range(count):
        value = read_f32(values + 4 * i)
        write_f32(weights + 4 * left, read_f32(weights + 4 * i))
        write_f32(values + 4 * left, value)
        left += low <= value and value <= high
    pad(values + 4 * left, LOWEST)
    pad(weights + 4 * left, np.float32(0.0))
    return left, low, high, above
