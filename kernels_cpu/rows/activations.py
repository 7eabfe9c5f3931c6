"""Activations as int8, in the two layouts that matrix kernels read; ``layouts`` has the offsets.

A block is 32 numbers of one token: scale = absmax / 127, q = round(x / scale).

The first layout is records, which the kernels for one token read. A record groups blocks: one block
for every four lanes. It holds the quants (first all first halves, then all second halves), the
scales, the scaled sums of the quants, the numbers at which integer products start (for every lane,
or for both rows of a pair), and the magnitudes of the quants on tiers that need them. The sum of a
block is stored in two parts in the block's first two lanes, and again in its last two. Behind the
records, each super-block has numbers for its own kernels: starts in the order in which
``pack_pairs`` leaves products, and scales in the order in which ``dot_pairs`` leaves half blocks.

The second layout is "in order", which the kernels for several tokens read. It has four arrays: the
quants, the scales, and the sums of blocks and of half blocks. A sum is the scaled sum of the quants
as f32, followed by the number at which integer sums of products start (``store_starts``).
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.formats.block_orders import PLACES, UNITS
from edgellama.kernels_cpu.layouts import (
    BLOCK,
    MAGNITUDES_AT,
    ORDER_BYTES,
    ORDER_SCALES_AT,
    ORDER_STARTS_AT,
    ORDERS_AT,
    RECORD_BYTES,
    SCALE_AT,
    START_AT,
    STARTS_AT,
    SUM_AT,
    SUM_BYTES,
    SUPER_BLOCK,
    SUPER_BLOCK_BYTES,
    SUPER_SCALES_AT,
    half_sums_at,
    records_bytes,
    scales_at,
    sums_at,
)
from edgellama.kernels_cpu.simd.arithmetic import magnitude, max_lanes, maximum, mul, sum_lanes
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.half_totals import adds_up_halves
from edgellama.kernels_cpu.simd.integers import (
    bytes_like,
    i32_zeros_like,
    round_to_bytes,
    store_narrow,
    to_f32,
)
from edgellama.kernels_cpu.simd.product_starts import store_starts, store_starts_of_record
from edgellama.kernels_cpu.simd.scales import dot_pairs, pack_pairs, pairs_of_ones
from edgellama.kernels_cpu.simd.tier_choice import by_tier
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros_4,
    f32_zeros_16,
    lane_count,
    load_f32,
    splat_f32,
    store,
    write_f32,
    write_i16,
)
from edgellama.kernels_cpu.simd.weight_bytes import dot4, moves_signs, without_signs
from edgellama.quant.formats import BLOCK_ORDERS, QUARTERS, centre_of_order


@device
def load_block(x):
    """32 f32 at ``x`` as two vectors."""
    like = f32_zeros_16()
    return load_f32(x, like), load_f32(x + 64, like)


@device
def store_block(address, values):
    """Write what ``load_block`` reads."""
    low, high = values
    store(address, low)
    store(address + 64, high)


@device
def quantize_block(values):
    """Two vectors of 16 f32 as two of 16 bytes, and their scale."""
    low, high = values
    absolute = max_lanes(maximum(magnitude(high), magnitude(low)))
    inverse = np.float32(0.0)
    if absolute > np.float32(0.0):
        inverse = np.float32(127.0) / absolute
    factor = splat_f32(inverse, low)
    scale = absolute / np.float32(127.0)
    return round_to_bytes(mul(low, factor)), round_to_bytes(mul(high, factor)), scale


@device
def word_sums(quants):
    """Sums of every four neighbouring bytes of 16."""
    return dot4(i32_zeros_like(f32_zeros_4()), bytes_like(quants, 1), quants)


@device
def total_of(quants):
    """The sum of 16 bytes as f32, which is exact."""
    return sum_lanes(to_f32(word_sums(quants)))


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
    """Where a super-block's quants, scales and starts in one of the orders lie, and its sums."""
    sums = records + num_blocks * RECORD_BYTES + index * SUPER_BLOCK_BYTES
    quants = sums + ORDERS_AT + order * ORDER_BYTES
    return quants, quants + ORDER_SCALES_AT, quants + ORDER_STARTS_AT, sums


def _define_store_in_order(number):
    """One block into the super-blocks of one order: its quants, scale and starts."""
    order, centre = BLOCK_ORDERS[number], centre_of_order(number)
    places = sum(place << 4 * block for place, block in enumerate(order))
    place_of, (unit_of_half, _) = PLACES[number], UNITS[number]

    def store_in_order(records, block, num_blocks, low, high, scale):
        width = lane_count() // 4
        super_block = block // SUPER_BLOCK
        quants, scales, starts, _ = super_blocks_at(records, super_block, num_blocks, number)
        place = (places >> 4 * (block % SUPER_BLOCK)) & 7
        store(quants + BLOCK * place, low)
        store(quants + BLOCK * place + 16, high)
        for half in range(2 * place, 2 * place + 2):
            pair, rest = half // (2 * width), half % (2 * width)
            at = 16 * width * pair + 16 * (rest % width) + 8 * (rest // width)
            write_f32(scales + at, scale * unit_of_half(half))
            write_f32(scales + at + 4, scale * unit_of_half(half))
            if centre != 0:
                words = word_sums(high if half % 2 else low)
                store_narrow(starts + at, words, -(centre << place_of(half)))

    return device(store_in_order)


def _define_store_for_totals(number):
    """The same where ``half_totals`` adds up: starts of half blocks in order, scales for lanes."""
    order, centre = BLOCK_ORDERS[number], centre_of_order(number)
    places = sum(place << 4 * block for place, block in enumerate(order))
    (unit_of_half, _) = UNITS[number]

    def store_for_totals(records, block, num_blocks, low, high, scale):
        block_index = block % SUPER_BLOCK
        place = (places >> 4 * block_index) & 7
        quants, scales, starts, _ = super_blocks_at(
            records, block // SUPER_BLOCK, num_blocks, number
        )
        store(quants + BLOCK * place, low)
        store(quants + BLOCK * place + 16, high)
        at = scales + place // 4 * 32 + place % 4 * 4
        write_f32(at, scale * unit_of_half(2 * place))
        write_f32(at + 16, scale * unit_of_half(2 * place))
        write_i16(starts + 4 * block_index, -centre * int(total_of(low)))
        write_i16(starts + 4 * block_index + 2, -centre * int(total_of(high)))

    return device(store_for_totals)


store_in_first, store_in_second, store_in_third = map(
    _define_store_in_order, range(len(BLOCK_ORDERS))
)
store_in_quarters = by_tier(adds_up_halves, _define_store_for_totals(QUARTERS), store_in_first)


@device
def store_in_super_block(records, block, num_blocks, low, high, scale, orders):
    """One block, the quants of its halves and their scale, into its super-block in some orders."""
    _, _, _, sums = super_blocks_at(records, block // SUPER_BLOCK, num_blocks, 0)
    place = block % SUPER_BLOCK
    write_i16(sums + 4 * place, int(total_of(low)))
    write_i16(sums + 4 * place + 2, int(total_of(high)))
    write_f32(sums + SUPER_SCALES_AT + 4 * place, scale)
    if orders & 1:
        store_in_quarters(records, block, num_blocks, low, high, scale)
    if orders & 2:
        store_in_second(records, block, num_blocks, low, high, scale)
    if orders & 4:
        store_in_third(records, block, num_blocks, low, high, scale)


@device
def quantize_as_record(values, block, num_blocks, q, q_scale, q_sum, q_half_sum, orders, token):
    """One block of a token into its record and super-block."""
    like = f32_zeros_4()
    records = q + token * records_bytes(num_blocks * BLOCK)
    size, place = record_of_block(block, num_blocks)
    low, high, scale = quantize_block(values)
    factor, at = splat_f32(scale, like), records + (block - place) * RECORD_BYTES + 16 * place
    words = dot4(word_sums(low), bytes_like(high, 1), high)
    sums = dot_pairs(pack_pairs(words, words), pairs_of_ones(like))
    store(at, low)
    store(at + 16 * size, high)
    width = 4 * size
    store(at + SCALE_AT * width, factor)
    store(at + SUM_AT * width, mul(to_f32(sums), factor))
    store_starts_of_record(at + STARTS_AT * width, words)
    if moves_signs():
        store(at + MAGNITUDES_AT * width, without_signs(low))
        store(at + MAGNITUDES_AT * width + 16 * size, without_signs(high))
    if orders != 0:
        store_in_super_block(records, block, num_blocks, low, high, scale, orders)


@device
def quantize_in_order(values, block, num_blocks, q, q_scale, q_sum, q_half_sum, orders, token):
    """One block of a token into the arrays of the layout in order."""
    low, high, scale = quantize_block(values)
    low_total, high_total = total_of(low), total_of(high)
    low_sum, high_sum = low_total * scale, high_total * scale
    unit = token * num_blocks + block
    quants, sums = q + unit * BLOCK, q_sum + sums_at(unit)
    half_sums = q_half_sum + half_sums_at(unit)
    starts = half_sums + START_AT
    store(quants, low)
    store(quants + 16, high)
    write_f32(q_scale + scales_at(unit), scale)
    write_f32(sums, low_sum + high_sum)
    write_f32(half_sums, low_sum)
    write_f32(half_sums + SUM_BYTES, high_sum)
    store_starts(
        low, high, low_total, high_total, sums + START_AT, starts, starts + SUM_BYTES
    )  # fmt: skip


QUANTIZERS = {"records": quantize_as_record, "in_order": quantize_in_order}
"""Per layout of ``signatures.LAYOUTS`` that has blocks."""
