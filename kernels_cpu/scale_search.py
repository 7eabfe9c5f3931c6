"""The search for scales: which scale, or scale and minimum, loses least of a group of weights.

A group is a run of vectors, one block in each lane. As in ggml's quantizers, many starting
scales are tried: round, then solve for the scale by weighted least squares. Errors need not be
summed up: what a solution gains over storing zeros follows from the sums that gave it.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu import simd_operators  # noqa: F401
from edgellama.kernels_cpu.device import exact_device
from edgellama.kernels_cpu.lane_tiles import vector_bytes
from edgellama.kernels_cpu.simd import f32_zeros, load_f32, splat_f32
from edgellama.kernels_cpu.simd_exact import minimum, round_even, rounded_to_half, where_greater
from edgellama.kernels_cpu.simd_math import magnitude, maximum

LARGEST_HALF = np.float32(65504.0)
TINY, HUGE = np.float32(1e-30), np.float32(1e30)
"""Scales below the one count as 0; the other stands for a gain or bound that is out of reach."""


def rounder(lowest, highest):
    """Nearest whole number within the quants' range, as f32; ``lowest`` for NaN."""
    bottom, top = np.float32(lowest), np.float32(highest)

    def nearest(t):
        return minimum(maximum(round_even(t), splat_f32(bottom, t)), splat_f32(top, t))

    return exact_device(nearest)


@exact_device
def inverse_of(scale):
    """1 / scale, and 0 where the scale is as good as 0."""
    one, zero = splat_f32(np.float32(1.0), scale), splat_f32(np.float32(0.0), scale)
    return where_greater(magnitude(scale), splat_f32(TINY, scale), one / scale, zero)


@exact_device
def nearest_half(x):
    """x as a half can hold it, never infinite; 0 for NaN."""
    limit, zero = splat_f32(LARGEST_HALF, x), splat_f32(np.float32(0.0), x)
    finite = minimum(maximum(x, zero - limit), limit)
    return rounded_to_half(where_greater(magnitude(x), zero, finite, zero))


@exact_device
def weight_sums(x, w, count):
    """Sum of the weights and of the weighted numbers."""
    sum_w = sum_x = f32_zeros()
    for i in range(count):
        at = i * vector_bytes()
        weight = load_f32(w + at, sum_w)
        sum_w, sum_x = sum_w + weight, sum_x + weight * load_f32(x + at, sum_x)
    return sum_w, sum_x


@exact_device
def solve_affine(sum_w, sum_x, l1, l2, lx, highest_minimum):
    """The best scale and minimum, the latter at most ``highest_minimum``, and what they gain.

    From the weighted sums of x, of the quants l, l², and l x. The gain is the weighted sum of x²
    less that of the squared error.
    """
    zero = f32_zeros()
    determinant = sum_w * l2 - l1 * l1
    low = (l2 * sum_x - l1 * lx) / determinant
    low = minimum(where_greater(determinant, zero, low, zero), highest_minimum)
    scale = (lx - low * l1) / l2
    gain = scale * (lx + lx - scale * l2)
    gain = gain + low * (sum_x + sum_x - low * sum_w - (scale + scale) * l1)
    return scale, low, where_greater(l2, zero, gain, splat_f32(-HUGE, gain))


def affine_errors(nearest, count):
    """Storing ``count`` numbers as scale * l - low: sums of w l, w l², w l x, squared error."""

    def errors(x, w, scale, low):
        l1 = l2 = lx = error = f32_zeros()
        inverse = inverse_of(scale)
        for i in range(count):
            at = i * vector_bytes()
            value, weight = load_f32(x + at, l1), load_f32(w + at, l1)
            quant = nearest((value + low) * inverse)
            rest = scale * quant - low - value
            weighted = weight * quant
            l1, l2, lx = l1 + weighted, l2 + weighted * quant, lx + weighted * value
            error = error + weight * rest * rest
        return l1, l2, lx, error

    return exact_device(errors)


def symmetric_errors(nearest, count):
    """Storing ``count`` numbers as scale * l: weighted sums of l x, l² and the squared error."""

    def errors(x, w, scale):
        lx = l2 = error = f32_zeros()
        inverse = inverse_of(scale)
        for i in range(count):
            at = i * vector_bytes()
            value, weight = load_f32(x + at, lx), load_f32(w + at, lx)
            quant = nearest(value * inverse)
            rest = scale * quant - value
            weighted = weight * quant
            lx, l2 = lx + weighted * value, l2 + weighted * quant
            error = error + weight * rest * rest
        return lx, l2, error

    return exact_device(errors)


def affine_search(nearest, top, starts, more_starts, num_refinements, any_minimum):
    """Searches scale and minimum for x = scale * l + minimum, l from 0 to ``top``.

    Starting scales spread the range of the numbers over each of ``starts`` quants. The minimum
    is not above 0 unless ``any_minimum``.
    """
    num_first, num_starts = len(starts), len(starts) + len(more_starts)
    spans = np.array(starts + more_starts, np.float32)

    def moments(x, w, count, low, shift, inverse):
        l1 = l2 = lx = f32_zeros()
        for i in range(count):
            at = i * vector_bytes()
            value, weight = load_f32(x + at, l1) - low, load_f32(w + at, l1)
            quant = nearest((value - shift) * inverse)
            weighted = weight * quant
            l1, l2, lx = l1 + weighted, l2 + weighted * quant, lx + weighted * value
        return l1, l2, lx

    moments = exact_device(moments)

    def limits(x, count):
        high = load_f32(x, f32_zeros())
        low = high if any_minimum else f32_zeros()
        for i in range(count):
            value = load_f32(x + i * vector_bytes(), low)
            low, high = minimum(value, low), maximum(value, high)
        return low, high

    limits = exact_device(limits)

    def search(x, w, count):
        low, high = limits(x, count)
        sum_w, sum_x = weight_sums(x, w, count)
        # Numbers are taken relative to the least one, so that gains keep their precision.
        sum_x = sum_x - low * sum_w
        highest = splat_f32(HUGE, low) if any_minimum else f32_zeros() - low
        scale, shift, best = (high - low) / np.float32(top), f32_zeros(), splat_f32(-HUGE, low)
        for i in range(num_starts + num_refinements):
            from_shift = f32_zeros() if i < num_first else shift
            inverse = inverse_of(scale)
            if i < num_starts:
                inverse = inverse_of(high - low - from_shift) * spans[i]
            l1, l2, lx = moments(x, w, count, low, from_shift, inverse)
            new_scale, new_shift, gain = solve_affine(sum_w, sum_x, l1, l2, lx, highest)
            scale = where_greater(gain, best, new_scale, scale)
            shift = where_greater(gain, best, new_shift, shift)
            best = maximum(gain, best)
        return scale, low + shift

    return exact_device(search)


def symmetric_moments(nearest):
    """Weighted sums of l x and l² over a group, for l = nearest(x * inverse)."""

    def moments(x, w, count, inverse):
        lx = l2 = f32_zeros()
        for i in range(count):
            at = i * vector_bytes()
            value = load_f32(x + at, lx)
            quant = nearest(value * inverse)
            weighted = load_f32(w + at, lx) * quant
            lx, l2 = lx + weighted * value, l2 + weighted * quant
        return lx, l2

    return exact_device(moments)


@exact_device
def largest_of(x, count):
    """The number of greatest magnitude, the first of several, with its sign."""
    largest = f32_zeros()
    for i in range(count):
        value = load_f32(x + i * vector_bytes(), largest)
        largest = where_greater(magnitude(value), magnitude(largest), value, largest)
    return largest


def symmetric_search(nearest, starts, num_refinements):
    """Searches the scale for x = scale * l.

    Starting scales put the number of greatest magnitude at each of ``starts``.
    """
    num_starts = len(starts)
    places = np.array(starts, np.float32)
    moments = symmetric_moments(nearest)

    def search(x, w, count):
        per_largest = inverse_of(largest_of(x, count))
        scale, best = f32_zeros(), f32_zeros()
        for i in range(num_starts + num_refinements):
            inverse = per_largest * places[i] if i < num_starts else inverse_of(scale)
            lx, l2 = moments(x, w, count, inverse)
            new_scale = lx / l2
            gain = lx * new_scale
            scale = where_greater(gain, best, new_scale, scale)
            best = where_greater(gain, best, gain, best)
        return scale

    return exact_device(search)
