"""The sum of a page's weighted values for a few tokens, and the sum over all teams of lanes.

``value_products`` says how lanes share the values and computes each lane's part. The weights come
from ``scores``.
"""

from __future__ import annotations

from typing import Any

from edgellama.cuda.decode_layout import keys_at_once, padded_head
from edgellama.cuda.kernels.lanes import i32_lanes, lane_number, select, widened
from edgellama.cuda.kernels.memory import load_global_16_bytes, store_shared_16_bytes
from edgellama.cuda.kernels.numbers import smaller
from edgellama.cuda.kernels.row_registers import add_lanes_at
from edgellama.cuda.kernels.value_products import (
    ValueUnit,
    define_add_value_products,
    define_load_value_words,
    define_store_outputs,
    define_value_places,
    load_value_scales,
)
from edgellama.cuda.layouts import CHUNK_BYTES, WARP, num_chunks, num_groups, scales_at
from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES, PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.device import device

WARP_SHIFT = WARP.bit_length() - 1
"""Shifts stand for divisions: the card has no instruction for these."""


def define_team_shift(unit: ValueUnit) -> Any:
    """Device function ``(head_size)``: a team of lanes is 2**shift, see ``value_products``."""
    bits = CACHE_NUMBER_BITS[unit.kind]
    lane_bytes = unit.units * unit.num_bytes
    # A block of all teams has no more positions than there are weights.
    smallest = (WARP * unit.positions // keys_at_once(unit.rows)).bit_length() - 1
    smallest = max(smallest, 0)

    @device
    def team_shift(head_size):
        num_bytes = num_chunks(head_size, bits) * CHUNK_BYTES
        shift = smallest
        while lane_bytes << shift < num_bytes:
            shift += 1
        return shift

    return team_shift


def define_copy_scales(kind: str) -> Any:
    """Device function ``(values, head_size, target)``: a page's scales to shared memory."""
    bits, elements = CACHE_NUMBER_BITS[kind], CACHE_SCALE_ELEMENTS.get(kind, 0)

    @device
    def copy_scales(values, head_size, target):
        if elements != 0:
            num_bytes = num_groups(head_size, elements) * CACHE_SCALE_BYTES * PAGE_POSITIONS
            source = values + scales_at(head_size, bits)
            for first in range(0, num_bytes, CHUNK_BYTES * WARP):
                at = lane_number() * CHUNK_BYTES + first
                inside = at < num_bytes
                words = load_global_16_bytes(widened(select(inside, at, 0)) + source)
                store_shared_16_bytes(widened(at) + target, words, inside)

    return copy_scales


def define_unit_numbers(unit: ValueUnit) -> Any:
    """Device function ``(lane, shift)``: which of a value's units a lane of a team has."""
    if unit.units == 2:

        @device
        def two(lane, shift):
            return lane, lane + (1 << shift)

        return two

    @device
    def one(lane, shift):
        return (lane,)

    return one


def define_unit_offsets(unit: ValueUnit) -> Any:
    """Device function ``(numbers, row_bytes)``: where units begin; the last for those behind it."""
    num_bytes = unit.num_bytes

    @device
    def offset(number, row_bytes):
        return smaller(number * num_bytes, i32_lanes(row_bytes - num_bytes))

    if unit.units == 2:

        @device
        def two(numbers, row_bytes):
            return offset(numbers[0], row_bytes), offset(numbers[1], row_bytes)

        return two

    @device
    def one(numbers, row_bytes):
        return (offset(numbers[0], row_bytes),)

    return one


def define_load_factors(unit: ValueUnit) -> Any:
    """Device function ``(scales, places, head_size, offset)``: scales of a lane's positions."""
    elements = CACHE_SCALE_ELEMENTS.get(unit.kind, 0)
    if elements == 0:

        @device
        def none(scales, places, head_size, offset):
            return ()

        return none
    group_shift = (elements * CACHE_NUMBER_BITS[unit.kind] // 8).bit_length() - 1

    @device
    def load_factors(scales, places, head_size, offset):
        groups = num_groups(head_size, elements)
        return load_value_scales(scales, places, groups, offset >> group_shift)

    return load_factors


def define_sum_page(unit: ValueUnit) -> Any:
    """Device function that adds a page's weighted values to the sums.

    ``values`` is the address of the head's; ``first`` and ``end`` say which positions are seen;
    weights, of the page's positions, and scales lie in shared memory.
    """
    bits, positions = CACHE_NUMBER_BITS[unit.kind], unit.positions
    team_shift, value_places = define_team_shift(unit), define_value_places(unit)
    unit_numbers, unit_offsets = define_unit_numbers(unit), define_unit_offsets(unit)
    load_words, add_products = define_load_value_words(unit), define_add_value_products(unit)
    load_factors, positions_shift = define_load_factors(unit), positions.bit_length() - 1

    @device
    def sum_page(outputs, values, head_size, first, end, weights, scales):
        shift, row_bytes = team_shift(head_size), num_chunks(head_size, bits) * CHUNK_BYTES
        team, lane = lane_number() >> shift, lane_number() & ((1 << shift) - 1)
        offsets = unit_offsets(unit_numbers(lane, shift), row_bytes)
        step_shift = positions_shift + WARP_SHIFT - shift
        step = 1 << step_shift
        block, last_block = first >> step_shift, (end - 1) >> step_shift
        position = team * positions + (block << step_shift)
        places = value_places(position, end - 1)
        words = load_words(values, places, row_bytes, offsets)
        while block <= last_block:
            factors = load_factors(scales, places, head_size, offsets[0])
            places = value_places(position + step, end - 1)
            following = load_words(values, places, row_bytes, offsets)
            outputs = add_products(outputs, words, widened(position * 4) + weights, factors)
            words = following
            position = position + step
            block += 1
        return outputs

    return sum_page


def define_store_sums(unit: ValueUnit) -> Any:
    """Device function ``(outputs, head_size, target)``: sums of all teams, as rows of heads."""
    team_shift, unit_numbers = define_team_shift(unit), define_unit_numbers(unit)
    store_outputs, bits = define_store_outputs(unit), CACHE_NUMBER_BITS[unit.kind]

    @device
    def store_sums(outputs, head_size, target):
        shift, row_bytes = team_shift(head_size), num_chunks(head_size, bits) * CHUNK_BYTES
        if shift <= 4:
            outputs = add_lanes_at(outputs, 16)
        if shift <= 3:
            outputs = add_lanes_at(outputs, 8)
        if shift <= 2:
            outputs = add_lanes_at(outputs, 4)
        if shift <= 1:
            outputs = add_lanes_at(outputs, 2)
        if shift == 0:
            outputs = add_lanes_at(outputs, 1)
        numbers = unit_numbers(lane_number() & ((1 << shift) - 1), shift)
        is_first_team = lane_number() < (1 << shift)
        store_outputs(outputs, target, 4 * padded_head(head_size), numbers, row_bytes,
                      is_first_team)  # fmt: skip

    return store_sums
