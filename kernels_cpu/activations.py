"""Activations as int8: the layouts that the matrix kernels read.

A block is 32 numbers of one token: scale = absmax / 127, q = round(x / scale). The decode
layout groups blocks as the weights are read (one block to every four lanes) into records of
quants (first halves, then second halves), scales and scaled sums of the quants: two lanes for
the first half of a block, two for the second. The prefill layout keeps the quants in order,
with one scale and the sums in arrays beside them.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import (
    f32_zeros_4,
    lane_count,
    load_bytes,
    load_f32,
    splat_f32,
    store,
    write_f32,
)
from edgellama.kernels_cpu.simd_bytes import (
    bytes_like,
    i32_zeros_like,
    store_rounded_bytes,
    to_f32,
)
from edgellama.kernels_cpu.simd_math import magnitude, max_lanes, maximum, mul, sum_lanes
from edgellama.kernels_cpu.simd_scales import dot_pairs, pairs_of_ones
from edgellama.kernels_cpu.simd_weights import dot4

BLOCK = 32


@device
def quantize_block(x, first, second):
    """32 f32 at ``x`` to 16 bytes at ``first`` and 16 at ``second``; returns the scale."""
    like = f32_zeros_4()
    largest = magnitude(load_f32(x, like))
    for i in range(1, 8):
        largest = maximum(magnitude(load_f32(x + 16 * i, like)), largest)
    absolute = max_lanes(largest)
    inverse = np.float32(0.0)
    if absolute > np.float32(0.0):
        inverse = np.float32(127.0) / absolute
    factor = splat_f32(inverse, like)
    for i in range(4):
        store_rounded_bytes(first + 4 * i, mul(load_f32(x + 16 * i, like), factor))
        store_rounded_bytes(second + 4 * i, mul(load_f32(x + 64 + 16 * i, like), factor))
    return absolute / np.float32(127.0)


@device
def word_sums(address, like):
    """Sums of four neighbouring bytes of the 16 at ``address``."""
    taken = load_bytes(address, like)
    return dot4(i32_zeros_like(like), bytes_like(taken, 1), taken)


@device
def record_of_block(block, num_blocks):
    """Blocks in the record of a block, and its place there.

    Records are as wide as a vector; what is left of a row makes one of two and one of one.
    """
    group = lane_count() // 4
    full = num_blocks // group * group
    if block < full:
        return group, block % group
    if group == 4 and block - full < (num_blocks - full) // 2 * 2:
        return 2, (block - full) % 2
    return 1, 0


@device
def quantize_as_records(
    x, first_block, last_block, num_blocks, q, q_scale, q_sum, q_half_sum, token
):
    """Blocks of one token, read at ``x``, into its records: 64 bytes a block."""
    like = f32_zeros_4()
    records = q + token * num_blocks * 64
    for block in range(first_block, last_block):
        size, place = record_of_block(block, num_blocks)
        record = records + (block - place) * 64
        low = record + 16 * place
        high = low + 16 * size
        factor = splat_f32(quantize_block(x + block * 128, low, high), like)
        store(high + 16 * size, factor)
        sums = dot_pairs(word_sums(low, like), word_sums(high, like), pairs_of_ones(like))
        store(high + 32 * size, mul(to_f32(sums), factor))


@device
def quantize_in_order(x, first_block, last_block, num_blocks, q, q_scale, q_sum, q_half_sum, token):
    """Blocks of one token, read at ``x``, into the arrays of the prefill layout."""
    like = f32_zeros_4()
    for block in range(first_block, last_block):
        unit = token * num_blocks + block
        quants = q + unit * BLOCK
        scale = quantize_block(x + block * 128, quants, quants + 16)
        low = sum_lanes(to_f32(word_sums(quants, like))) * scale
        high = sum_lanes(to_f32(word_sums(quants + 16, like))) * scale
        write_f32(q_scale + unit * 4, scale)
        write_f32(q_sum + unit * 4, low + high)
        write_f32(q_half_sum + unit * 8, low)
        write_f32(q_half_sum + unit * 8 + 4, high)


@device
def keep_floats(x, first_block, last_block, num_blocks, q, q_scale, q_sum, q_half_sum, token):
    """Nothing: the users of these rows read f32."""


QUANTIZERS = {"float": keep_floats, "decode": quantize_as_records, "prefill": quantize_in_order}
"""Per layout of ``signatures.LAYOUTS``."""
