"""Activations as int8: the layouts that the matrix kernels read.

A block is 32 numbers of one token: scale = absmax / 127, q = round(x / scale). The decode
layout groups blocks as the weights are read (one block to every four lanes) into records of
quants (first halves, then second halves), scales and scaled sums of the quants: two lanes for
the first half of a block, two for the second. Behind the records of whole super-blocks come,
for each super-block, the sums of its 16 half blocks in order, and for each of ``BLOCK_ORDERS``
its quants and its scales, the latter as ``dot_pairs`` leaves the half blocks. The prefill
layout keeps the quants in order, with the scales in an array beside them and the sums, of
blocks and of half blocks, in two more: the scaled sum of the quants as f32, and behind it what
integer sums of products start at (``store_starts``).
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.signatures import (
    BLOCK_ORDERS,
    HALVES,
    START_AT,
    SUM_BYTES,
    SUPER_BLOCK,
    decode_bytes,
)
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
from edgellama.kernels_cpu.simd_dot_tiles import store_starts
from edgellama.kernels_cpu.simd_math import magnitude, max_lanes, maximum, mul, sum_lanes
from edgellama.kernels_cpu.simd_scales import dot_pairs, pairs_of_ones
from edgellama.kernels_cpu.simd_weights import dot4

BLOCK = 32
RECORD_BYTES = 64
"""Of each block in its record."""
ORDER_BYTES = SUPER_BLOCK * BLOCK + 8 * HALVES
SUPER_BLOCK_BYTES = 4 * HALVES + len(BLOCK_ORDERS) * ORDER_BYTES
bytes_of_token = device(decode_bytes)


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
def super_blocks_at(records, index, num_blocks, order):
    """Where a super-block's quants and scales in one of the orders lie, and its sums."""
    sums = records + num_blocks * RECORD_BYTES + index * SUPER_BLOCK_BYTES
    quants = sums + 4 * HALVES + order * ORDER_BYTES
    return quants, quants + SUPER_BLOCK * BLOCK, sums


def _define_store_in_order(number):
    """One block into the super-blocks of one order: its quants and scale."""
    order = BLOCK_ORDERS[number]
    places = sum(place << 4 * block for place, block in enumerate(order))

    def store_in_order(records, block, num_blocks, low, high, scale):
        width, like = lane_count() // 4, f32_zeros_4()
        quants, scales, _ = super_blocks_at(records, block // SUPER_BLOCK, num_blocks, number)
        place = (places >> 4 * (block % SUPER_BLOCK)) & 7
        store(quants + BLOCK * place, load_bytes(low, like))
        store(quants + BLOCK * place + 16, load_bytes(high, like))
        for half in range(2 * place, 2 * place + 2):
            pair, rest = half // (2 * width), half % (2 * width)
            lanes = scales + 16 * width * pair + 16 * (rest % width) + 8 * (rest // width)
            write_f32(lanes, scale)
            write_f32(lanes + 4, scale)

    return device(store_in_order)


store_in_first, store_in_second, store_in_third = map(
    _define_store_in_order, range(len(BLOCK_ORDERS))
)


@device
def store_in_super_block(records, block, num_blocks, low, high, scale):
    """One block, whose quants lie at ``low`` and ``high``, into the super-blocks of all orders."""
    like = f32_zeros_4()
    _, _, sums = super_blocks_at(records, block // SUPER_BLOCK, num_blocks, 0)
    at = sums + 8 * (block % SUPER_BLOCK)
    write_f32(at, sum_lanes(to_f32(word_sums(low, like))) * scale)
    write_f32(at + 4, sum_lanes(to_f32(word_sums(high, like))) * scale)
    store_in_first(records, block, num_blocks, low, high, scale)
    store_in_second(records, block, num_blocks, low, high, scale)
    store_in_third(records, block, num_blocks, low, high, scale)


@device
def quantize_as_records(
    x, first_block, last_block, num_blocks, q, q_scale, q_sum, q_half_sum, token
):
    """Blocks of one token, read at ``x``, into its records and super-blocks."""
    like = f32_zeros_4()
    records = q + token * bytes_of_token(num_blocks * BLOCK)
    for block in range(first_block, last_block):
        size, place = record_of_block(block, num_blocks)
        record = records + (block - place) * RECORD_BYTES
        low = record + 16 * place
        high = low + 16 * size
        scale = quantize_block(x + block * 128, low, high)
        factor = splat_f32(scale, like)
        store(high + 16 * size, factor)
        sums = dot_pairs(word_sums(low, like), word_sums(high, like), pairs_of_ones(like))
        store(high + 32 * size, mul(to_f32(sums), factor))
        if num_blocks % SUPER_BLOCK == 0:
            store_in_super_block(records, block, num_blocks, low, high, scale)


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
        sums, half_sums = q_sum + unit * SUM_BYTES, q_half_sum + 2 * unit * SUM_BYTES
        write_f32(q_scale + unit * 4, scale)
        write_f32(sums, low + high)
        write_f32(half_sums, low)
        write_f32(half_sums + SUM_BYTES, high)
        starts = half_sums + START_AT
        store_starts(quants, sums + START_AT, starts, starts + SUM_BYTES)


@device
def keep_floats(x, first_block, last_block, num_blocks, q, q_scale, q_sum, q_half_sum, token):
    """Nothing: the users of these rows read f32."""


QUANTIZERS = {"float": keep_floats, "decode": quantize_as_records, "prefill": quantize_in_order}
"""Per layout of ``signatures.LAYOUTS``."""
