"""Activations as int8: the layouts that the matrix kernels read.

A block is 32 numbers of one token: scale = absmax / 127, q = round(x / scale). For one token
at a time, blocks are grouped as the weights are read (one block to every four lanes) into
records of quants (first halves, then second halves), scales and scaled sums of the quants.
For many tokens the quants stay in order, with one scale and the sums beside them.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.rows import unit_range
from edgellama.kernels_cpu.simd import (
    dot4,
    f32_zeros_4,
    i32_zeros_like,
    lane_count,
    load_bytes,
    load_f32,
    magnitude,
    max_lanes,
    maximum,
    mul,
    ones_like,
    splat_f32,
    store,
    store_rounded_bytes,
    sum_lanes,
    to_f32,
    write_f32,
)


@device
def quantize_block(x, first, second):
    """32 f32 at ``x`` to 16 bytes at ``first`` and 16 at ``second``; returns the scale."""
    like = f32_zeros_4()
    largest = magnitude(load_f32(x, like))
    for i in range(1, 8):
        largest = maximum(magnitude(load_f32(x + 16 * i, like)), largest)
    absolute = max_lanes(largest)
    scale = absolute / np.float32(127.0)
    inverse = np.float32(0.0)
    if absolute > np.float32(0.0):
        inverse = np.float32(127.0) / absolute
    factor = splat_f32(inverse, like)
    for i in range(4):
        store_rounded_bytes(first + 4 * i, mul(load_f32(x + 16 * i, like), factor))
        store_rounded_bytes(second + 4 * i, mul(load_f32(x + 64 + 16 * i, like), factor))
    return scale


@device
def lane_sums(address, like):
    """Sums of four neighbouring bytes of the 16 at ``address``, as f32."""
    taken = load_bytes(address, like)
    return to_f32(dot4(i32_zeros_like(like), ones_like(taken), taken))


def quantize_decode():
    """Records of 64 bytes a block; ``blocks_per_record`` of them interleaved."""

    def kernel(x, x_stride, width, num_tokens, y, y_stride, thread, num_threads):
        like = f32_zeros_4()
        num_blocks = width // 32
        group = lane_count() // 4
        full = num_blocks // group * group
        first, last = unit_range(num_tokens * num_blocks, thread, num_threads)
        for unit in range(first, last):
            token, block = unit // num_blocks, unit % num_blocks
            size, place = group, block % group
            if block >= full:
                size, place = 1, 0
            record = y + token * y_stride + (block - place) * 64
            low = record + 16 * place
            high = low + 16 * size
            scale = quantize_block(x + token * x_stride + block * 128, low, high)
            factor = splat_f32(scale, like)
            store(high + 16 * size, factor)
            sums = dot4(
                dot4(i32_zeros_like(like), ones_like(load_bytes(low, like)), load_bytes(low, like)),
                ones_like(load_bytes(high, like)),
                load_bytes(high, like),
            )
            store(high + 32 * size, mul(to_f32(sums), factor))

    return kernel


def quantize_prefill():
    """Quants in order; per block a scale and a scaled sum, per half block a scaled sum."""

    def kernel(x, x_stride, width, num_tokens, y, y_scale, y_sum, y_half_sum, thread, num_threads):
        like = f32_zeros_4()
        num_blocks = width // 32
        first, last = unit_range(num_tokens * num_blocks, thread, num_threads)
        for unit in range(first, last):
            token, block = unit // num_blocks, unit % num_blocks
            quants = y + unit * 32
            scale = quantize_block(x + token * x_stride + block * 128, quants, quants + 16)
            low = sum_lanes(lane_sums(quants, like)) * scale
            high = sum_lanes(lane_sums(quants + 16, like)) * scale
            write_f32(y_scale + unit * 4, scale)
            write_f32(y_sum + unit * 4, low + high)
            write_f32(y_half_sum + unit * 8, low)
            write_f32(y_half_sum + unit * 8 + 4, high)

    return kernel
