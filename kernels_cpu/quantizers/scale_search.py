"""The search for the scale, or the scale and minimum, that loses least of a group of weights.

A group is a series of vectors with one block in each lane. Like ggml's quantizers, the search tries
many starting scales: it rounds, then solves for the scale by weighted least squares. The gain over
storing zeros follows from the same sums, so errors need no sums of their own. Numbers that differ
between formats are arguments, so one compilation serves all formats.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from edgellama.kernels_cpu.quantizers.lane_tiles import vector_bytes
from edgellama.kernels_cpu.simd import operators  # noqa: F401
from edgellama.kernels_cpu.simd.arithmetic import magnitude, maximum
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import minimum, round_even, rounded_to_half, where_greater
from edgellama.kernels_cpu.simd.vectors import f32_zeros, load_f32, splat_f32

LARGEST_HALF = np.float32(65504.0)
TINY, HUGE = np.float32(1e-30), np.float32(1e30)
"""Scales below the one count as 0; the other stands for a gain or bound that is out of reach."""


@dataclass(frozen=True)
class Starts:
    """Two rows of starting points, ``step`` apart, and how often the best is refined after them.

    A starting point is the place, in quants, where the largest number is put; or how many quants
    the range of the numbers is spread over, the second row from the best minimum so far.
    """

    first: float
    num_first: int
    second: float
    num_second: int
    step: float
    num_refinements: int = 2

    @property
    def arguments(self) -> tuple[np.float32, int, np.float32, int, np.float32, int]:
        """As the searches take them."""
        return (
            *(np.float32(self.first), self.num_first),
            *(np.float32(self.second), self.num_first + self.num_second),
            *(np.float32(self.step), self.num_first + self.num_second + self.num_refinements),
        )


@exact_device
def start_at(starts, i):
    """The i-th starting point."""
    first, num_first, second, _, step, _ = starts
    if i < num_first:
        return first + step * np.float32(i)
    return second + step * np.float32(i - num_first)


@exact_device
def nearest_whole(t, bottom, top):
    """Nearest whole number from ``bottom`` to ``top``, as f32; ``bottom`` for NaN."""
    return minimum(maximum(round_even(t), splat_f32(bottom, t)), splat_f32(top, t))


@exact_device
def nearest_half(x):
    """x as a half can hold it, never infinite; 0 for NaN."""
    limit, zero = splat_f32(LARGEST_HALF, x), splat_f32(np.float32(0.0), x)
    finite = minimum(maximum(x, zero - limit), limit)
    return rounded_to_half(where_greater(magnitude(x), zero, finite, zero))


@exact_device
def inverse_of(scale):
    """1 / scale, and 0 where the scale is as good as 0."""
    one, zero = splat_f32(np.float32(1.0), scale), splat_f32(np.float32(0.0), scale)
    return where_greater(magnitude(scale), splat_f32(TINY, scale), one / scale, zero)


# With a minimum: x = scale * l + low, l from 0 to ``top``


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
def solve_affine(sum_w, sum_x, l1, l2, lx, highest_low):
    """The best scale and minimum, the latter at most ``highest_low``, and what they gain.

    From the weighted sums of x, of the quants l, l², and l x. The gain is the weighted sum of x²
    less that of the squared error.
    """
    zero = f32_zeros()
    determinant = sum_w * l2 - l1 * l1
    low = (l2 * sum_x - l1 * lx) / determinant
    low = minimum(where_greater(determinant, zero, low, zero), highest_low)
    scale = (lx - low * l1) / l2
    gain = scale * (lx + lx - scale * l2)
    gain = gain + low * (sum_x + sum_x - low * sum_w - (scale + scale) * l1)
    return scale, low, where_greater(l2, zero, gain, splat_f32(-HUGE, gain))


@exact_device
def affine_sums(x, w, count, top, origin, low, inverse):
    """Weighted sums of l, l² and l (x - origin), where l rounds x - origin - low."""
    l1 = l2 = lx = f32_zeros()
    for i in range(count):
        at = i * vector_bytes()
        value, weight = load_f32(x + at, l1) - origin, load_f32(w + at, l1)
        quant = nearest_whole((value - low) * inverse, np.float32(0.0), top)
        weighted = weight * quant
        l1, l2, lx = l1 + weighted, l2 + weighted * quant, lx + weighted * value
    return l1, l2, lx


@exact_device
def affine_errors(x, w, count, top, scale, low):
    """Storing x as scale * l + low: weighted sums of l, l², l x and of the squared error."""
    l1 = l2 = lx = error = f32_zeros()
    inverse = inverse_of(scale)
    for i in range(count):
        at = i * vector_bytes()
        value, weight = load_f32(x + at, l1), load_f32(w + at, l1)
        quant = nearest_whole((value - low) * inverse, np.float32(0.0), top)
        rest = scale * quant + low - value
        weighted = weight * quant
        l1, l2, lx = l1 + weighted, l2 + weighted * quant, lx + weighted * value
        error = error + weight * rest * rest
    return l1, l2, lx, error


@exact_device
def limits(x, count, any_low):
    """Least and largest number; the least is at most 0 unless ``any_low``."""
    low = high = load_f32(x, f32_zeros())
    for i in range(1, count):
        value = load_f32(x + i * vector_bytes(), low)
        low, high = minimum(value, low), maximum(value, high)
    if not any_low:
        low = minimum(low, f32_zeros())
    return low, high


@exact_device
def affine_search(x, w, count, top, starts, any_low):
    """The best scale and minimum found; the minimum is not above 0 unless ``any_low``."""
    _, num_first, _, num_starts, _, num_tries = starts
    low, high = limits(x, count, any_low)
    sum_w, sum_x = weight_sums(x, w, count)
    # Numbers are taken relative to the least one, so that gains keep their precision.
    sum_x = sum_x - low * sum_w
    highest = splat_f32(HUGE, low)
    if not any_low:
        highest = f32_zeros() - low
    scale, shift, best = (high - low) / top, f32_zeros(), splat_f32(-HUGE, low)
    for i in range(num_tries):
        from_shift, inverse = shift, inverse_of(scale)
        if i < num_first:
            from_shift = f32_zeros()
        if i < num_starts:
            inverse = inverse_of(high - low - from_shift) * start_at(starts, i)
        l1, l2, lx = affine_sums(x, w, count, top, low, from_shift, inverse)
        new_scale, new_shift, gain = solve_affine(sum_w, sum_x, l1, l2, lx, highest)
        scale = where_greater(gain, best, new_scale, scale)
        shift = where_greater(gain, best, new_shift, shift)
        best = maximum(gain, best)
    return scale, low + shift


# Without: x = scale * l, l the nearest value of a grid


@exact_device
def largest_of(x, count):
    """The number of greatest magnitude, the first of several, with its sign."""
    largest = f32_zeros()
    for i in range(count):
        value = load_f32(x + i * vector_bytes(), largest)
        largest = where_greater(magnitude(value), magnitude(largest), value, largest)
    return largest


@functools.cache
def symmetric_errors(nearest):
    """A function for one grid: weighted sums of l x, l² and of the squared error."""

    def errors(x, w, count, half, scale):
        lx = l2 = error = f32_zeros()
        inverse = inverse_of(scale)
        for i in range(count):
            at = i * vector_bytes()
            value, weight = load_f32(x + at, lx), load_f32(w + at, lx)
            quant = nearest(value * inverse, half)
            rest = scale * quant - value
            weighted = weight * quant
            lx, l2 = lx + weighted * value, l2 + weighted * quant
            error = error + weight * rest * rest
        return lx, l2, error

    return exact_device(errors)


@functools.cache
def symmetric_search(nearest):
    """A function for one grid: the best scale found."""

    def sums(x, w, count, half, inverse):
        lx = l2 = f32_zeros()
        for i in range(count):
            at = i * vector_bytes()
            value = load_f32(x + at, lx)
            quant = nearest(value * inverse, half)
            weighted = load_f32(w + at, lx) * quant
            lx, l2 = lx + weighted * value, l2 + weighted * quant
        return lx, l2

    sums = exact_device(sums)

    def search(x, w, count, half, starts):
        _, _, _, num_starts, _, num_tries = starts
        per_largest = inverse_of(largest_of(x, count))
        scale, best = f32_zeros(), f32_zeros()
        for i in range(num_tries):
            inverse = per_largest * start_at(starts, i) if i < num_starts else inverse_of(scale)
            lx, l2 = sums(x, w, count, half, inverse)
            new_scale = lx / l2
            gain = lx * new_scale
            scale = where_greater(gain, best, new_scale, scale)
            best = where_greater(gain, best, gain, best)
        return scale

    return exact_device(search)
