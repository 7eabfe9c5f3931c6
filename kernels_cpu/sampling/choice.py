"""The kernel that chooses a token: top-k, top-p, min-p and a random draw in one go.

Every filter keeps the logits above a limit and the first few that equal it, so two numbers describe
a filter. The logits that pass all filters are listed once, in the order of their tokens. If
rounding could decide a choice either way, the kernel does not choose: it reports this, and the
caller uses the filters of ``edgellama.sampling``.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.layouts import SELECTION_GROUP as GROUP
from edgellama.kernels_cpu.sampling.layout import (
    FRACTION,
    GROUP_BYTES,
    MIN_P_DISTANCE,
    TEMPERATURE,
    TOP_P,
    UNDECIDED,
    list_bytes,
)
from edgellama.kernels_cpu.sampling.limits import (
    LOWEST,
    collect,
    count_at_least,
    group_address,
    narrow,
    next_above,
    scan,
    value_at_count,
    value_at_weight,
    weight_at_least,
)
from edgellama.kernels_cpu.simd.arithmetic import add, div, exponential, sub, sum_lanes
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import write_f64, write_i64
from edgellama.kernels_cpu.simd.selection import read_f64
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    read_f32,
    read_i32,
    splat_f32,
    store,
)

ONE = np.float32(1.0)
DOUBT = 4e-7
"""Sums of probabilities nearer to each other than this may be in either order."""
NO_WEIGHT = 87.0
"""A logit so far below the largest has no probability in f32."""
FIRST_DEPTH = 3.0
"""How far below the largest logit top-p looks first; then three times as far."""


bytes_of_list = exact_device(list_bytes)


@exact_device
def weigh(x, num_values, last, largest, temperature, weights, sums):
    """Write exp((x - largest) / temperature) and its sums by groups; returns the whole sum."""
    like = f32_zeros()
    total = 0.0
    for group in range((num_values + GROUP - 1) // GROUP):
        at = group_address(x, num_values, last, group)
        part = like
        for i in range(0, GROUP_BYTES, 4 * lane_count()):
            below = sub(load_f32(at + i, like), splat_f32(largest, like))
            weight = exponential(div(below, splat_f32(temperature, like)))
            store(weights + group * GROUP_BYTES + i, weight)
            part = add(part, weight)
        group_sum = np.float64(sum_lanes(part))
        write_f64(sums + 8 * group, group_sum)
        total += group_sum
    return total


@exact_device
def top_k_limit(x, num_values, last, maxima, largest, k, values, tokens):
    """The value that top-k keeps last, and how many that equal it."""
    num_groups = (num_values + GROUP - 1) // GROUP
    # At least k logits reach the k-th largest maximum, and few more do.
    bound = LOWEST
    if k <= num_groups:
        bound = value_at_count((maxima, num_groups), k, LOWEST, largest)
    count = collect(x, num_values, last, maxima, bound, num_values, values, tokens)
    limit = value_at_count((values, count), k, LOWEST, largest)
    return limit, k - count_at_least(values, count, next_above(limit))


@exact_device
def top_p_limit(count, values, weights, wanted, doubt, low, high):
    """The value of a list that top-p keeps last, and how many that equal it; 0 in doubt."""
    left, low, high, above = narrow(values, weights, count, wanted, low, high)
    limit = value_at_weight((values, weights, left), wanted - above, low, high)
    above += weight_at_least(values, weights, left, next_above(limit))
    equal = count_at_least(values, left, limit) - count_at_least(values, left, next_above(limit))
    if equal == 0:
        return limit, 0
    each = (
        weight_at_least(values, weights, left, limit)
        - weight_at_least(values, weights, left, next_above(limit))
    ) / equal
    share = (wanted - above) / each if each > 0.0 else 0.0
    if not 0.0 < share <= equal:
        return limit, 0
    needed = np.int64(share)
    needed += needed < share
    reached = above + needed * each
    if reached - wanted < doubt or wanted - reached + each < doubt:
        return limit, 0
    return limit, needed


@exact_device
def drawn(weights, sums, count, total, fraction):
    """Place at which the running sum of weights passes ``fraction`` of it; UNDECIDED in doubt."""
    wanted, before = fraction * total, 0.0
    doubt = DOUBT * total
    group, last_group = 0, (count - 1) // GROUP
    while group < last_group and before + read_f64(sums + 8 * group) <= wanted:
        before += read_f64(sums + 8 * group)
        group += 1
    for i in range(group * GROUP, count):
        after = before + np.float64(read_f32(weights + 4 * i))
        if after > wanted:
            return i if wanted - before > doubt and after - wanted > doubt else UNDECIDED
        before = after
    return UNDECIDED


@exact_device
def list_for_top_p(x, num_values, last, maxima, largest, wanted, values, tokens, weights, sums):
    """List all logits down to a depth at which they weigh ``wanted``; the count and the lowest."""
    depth = np.float32(FIRST_DEPTH)
    while True:
        low = largest - depth
        count = collect(x, num_values, last, maxima, low, num_values, values, tokens)
        reached = weigh_list(values, count, largest, ONE, weights, sums)
        if reached >= wanted or depth >= NO_WEIGHT:
            return count, low
        depth = min(np.float32(3.0) * depth, np.float32(NO_WEIGHT))


@exact_device
def weigh_list(values, count, largest, temperature, weights, sums):
    """``weigh`` of a list, whose last group is padded in place."""
    last = values + count // GROUP * GROUP_BYTES
    return weigh(values, count, last, largest, temperature, weights, sums)


def choose_token():
    """Write the token, or UNDECIDED, for f32 logits and settings; see ``token_layout``."""

    def kernel(x, num_values, top_k, settings, scratch, token, thread, job):
        last = scratch
        maxima = last + GROUP_BYTES
        sums = maxima + bytes_of_list(num_values // GROUP + 1)
        values = sums + 2 * bytes_of_list(num_values // GROUP + 1)
        tokens = values + bytes_of_list(num_values)
        weights = tokens + bytes_of_list(num_values)
        write_i64(token, UNDECIDED)
        largest = scan(x, num_values, last, maxima)
        if not abs(largest) < np.float32(np.inf):
            return
        limit, equal = LOWEST, num_values
        if 0 < top_k < num_values:
            limit, equal = top_k_limit(x, num_values, last, maxima, largest, top_k, values, tokens)
        top_p = read_f64(settings + 8 * TOP_P)
        if top_p < 1.0:
            if 0 < top_k < num_values:
                count = collect(x, num_values, last, maxima, limit, equal, values, tokens)
                total = weigh_list(values, count, largest, ONE, weights, sums)
                low = max(limit, largest - np.float32(NO_WEIGHT))
            else:
                total = weigh(x, num_values, last, largest, ONE, weights, sums)
                count, low = list_for_top_p(
                    *(x, num_values, last, maxima, largest, top_p * total),
                    *(values, tokens, weights, sums),
                )
            limit, equal = top_p_limit(
                count, values, weights, top_p * total, DOUBT * total, low, largest
            )
            if equal == 0:
                return
        min_p_limit = largest + np.float32(read_f64(settings + 8 * MIN_P_DISTANCE))
        if min_p_limit > limit:
            limit, equal = min_p_limit, num_values
        temperature = np.float32(read_f64(settings + 8 * TEMPERATURE))
        fraction = read_f64(settings + 8 * FRACTION)
        if limit == LOWEST and equal == num_values:
            total = weigh(x, num_values, last, largest, temperature, weights, sums)
            write_i64(token, drawn(weights, sums, num_values, total, fraction))
        else:
            count = collect(x, num_values, last, maxima, limit, equal, values, tokens)
            total = weigh_list(values, count, largest, temperature, weights, sums)
            place = drawn(weights, sums, count, total, fraction)
            if place >= 0:
                write_i64(token, read_i32(tokens + 4 * place))

    return kernel
