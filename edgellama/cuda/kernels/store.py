"""Writes keys and values of new tokens into their pages on the card, and copies queries there.

A block is one warp and stores one KV head of one row, 32 elements of the head at a time. Numbers
are rounded to the same bits as ``kernels_cpu.attention.cache_store`` gives on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgellama.cuda.kernels.lanes import (
    f32_lanes,
    i32_lanes,
    i64_lanes,
    lane_number,
    select,
    truncated,
    widened,
)
from edgellama.cuda.kernels.memory import (
    load_global_f32,
    read_global_i64,
    store_global,
    store_global_8_bits,
    store_global_16_bits,
)
from edgellama.cuda.kernels.numbers import bfloat_bits, half_bits, magnitude, smaller
from edgellama.cuda.kernels.segments import page_of, segment_of_row
from edgellama.cuda.kernels.warp import (
    block_x,
    block_y,
    largest_integer_of_lanes,
    largest_of_lanes,
    number_of_lane,
    shuffle_xor,
)
from edgellama.cuda.layouts import (
    CHUNK_BYTES,
    FIRST_ROW,
    NUM_SEGMENTS,
    POSITION,
    WARP,
    key_scale_at,
    num_chunks,
    value_scale_at,
)
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.device import exact_device


@exact_device
def load_elements(x, first, head_size):
    """32 elements of a head from ``first`` on; zeros behind its end."""
    index = lane_number() + first
    inside = select(index < head_size, index, i32_lanes(0))
    return select(index < head_size, load_global_f32(widened(inside * 4) + x), f32_lanes(0.0))


@exact_device
def inverse(scale):
    """1 / scale, or 0 of 0."""
    if scale == np.float32(0.0):
        return np.float32(0.0)
    return np.float32(1.0) / scale


@exact_device
def byte_scale(x):
    """What 32 numbers are multiples of, up to 127 of it."""
    return largest_of_lanes(magnitude(x)) / np.float32(127.0)


@exact_device
def nibble_scale(x):
    """What 32 numbers are multiples of, -8 to 7 of it; negative where the largest is positive."""
    size = magnitude(x)
    largest = largest_of_lanes(size)
    if largest == np.float32(0.0):
        return np.float32(0.0) / np.float32(-8.0)
    from_end = select(size == largest, (WARP - 1) - lane_number(), i32_lanes(-1))
    first = (WARP - 1) - largest_integer_of_lanes(from_end)
    return number_of_lane(x, first) / np.float32(-8.0)


@exact_device
def as_bytes(x, factor):
    """The nearest multiples, ties away from zero."""
    scaled = x * factor
    below = 0 - truncated(np.float32(0.5) - scaled)
    return select(scaled < np.float32(0.0), below, truncated(scaled + np.float32(0.5)))


@exact_device
def as_nibbles(x, factor):
    """The nearest multiples, 8 larger, from 0 to 15."""
    return smaller(truncated(x * factor + np.float32(8.5)), i32_lanes(15))


def element_places(kind: str, is_key: bool) -> Any:
    """Device function ``(element, head_size, place)``: where bytes of elements lie in a head.

    ``element`` and the result are i32 lanes; of nibbles the lower half of a chunk counts.
    """
    bits, per_chunk = CACHE_NUMBER_BITS[kind], 8 * CHUNK_BYTES // CACHE_NUMBER_BITS[kind]
    chunk_shift = per_chunk.bit_length() - 1
    position_bytes = CHUNK_BYTES
    chunk_step = PAGE_POSITIONS * CHUNK_BYTES

    @exact_device
    def places(element, head_size, place):
        chunk, inside = element >> chunk_shift, element & (per_chunk - 1)
        at = inside if bits == 4 else inside * bits >> 3
        if is_key:
            return at + chunk * chunk_step + place * position_bytes
        return at + chunk * CHUNK_BYTES + place * num_chunks(head_size, bits) * CHUNK_BYTES

    return places


def part_store(kind: str, is_key: bool) -> Any:
    """Device function ``(x, head, head_size, place)`` that writes one position of a head."""
    bits, elements = CACHE_NUMBER_BITS[kind], CACHE_SCALE_ELEMENTS.get(kind, 0)
    per_chunk = 8 * CHUNK_BYTES // bits
    places = element_places(kind, is_key)
    write = {
        "f32": _write_f32, "f16": _write_f16, "bf16": _write_bf16, "q8_0": _write_bytes,
        "q4_0": _write_nibbles,
    }[kind]  # fmt: skip

    @exact_device
    def scale_place(head_size, group, place):
        if is_key:
            return key_scale_at(head_size, bits, group, place)
        return value_scale_at(head_size, bits, elements, group, place)

    @exact_device
    def store_part(x, head, head_size, place):
        padded = num_chunks(head_size, bits) * per_chunk
        for first in range(0, padded, WARP):
            numbers = load_elements(x, first, head_size)
            element = lane_number() + first
            at = widened(places(element, head_size, place)) + head
            mask = element < padded
            scale = write(at, numbers, mask)
            if elements != 0:
                where = head + scale_place(head_size, first // WARP, place)
                half = half_bits(f32_lanes(scale))
                store_global_16_bits(i64_lanes(where), half, lane_number() == 0)

    return store_part


@exact_device
def _write_f32(at, numbers, mask):
    store_global(at, numbers, mask)
    return np.float32(1.0)


@exact_device
def _write_f16(at, numbers, mask):
    store_global_16_bits(at, half_bits(numbers), mask)
    return np.float32(1.0)


@exact_device
def _write_bf16(at, numbers, mask):
    store_global_16_bits(at, bfloat_bits(numbers), mask)
    return np.float32(1.0)


@exact_device
def _write_bytes(at, numbers, mask):
    scale = byte_scale(numbers)
    store_global_8_bits(at, as_bytes(numbers, inverse(scale)), mask)
    return scale


@exact_device
def _write_nibbles(at, numbers, mask):
    """A byte has element j low and element j + 16 high."""
    scale = nibble_scale(numbers)
    low = as_nibbles(numbers, inverse(scale))
    pairs = low | shuffle_xor(low, 16) << 4
    store_global_8_bits(at, pairs, mask & (lane_number() < 16))
    return scale


@exact_device
def copy_row(source, target, num_bytes):
    """Copy f32 numbers, 32 at a time."""
    for first in range(0, num_bytes, 4 * WARP):
        at = lane_number() * 4 + first
        inside = select(at < num_bytes, at, i32_lanes(0))
        numbers = load_global_f32(widened(inside) + source)
        store_global(widened(at) + target, numbers, at < num_bytes)


def store(key_kind: str, value_kind: str) -> Any:
    """Keys and values of one KV head of one row into its page."""
    store_key, store_value = part_store(key_kind, True), part_store(value_kind, False)

    def kernel(
        q, q_stride, staged_q, staged_stride, k, v, kv_stride, head_size, num_heads, num_kv_heads,
        key_offset, value_offset, key_head_bytes, value_head_bytes, segments, warp,
    ):  # fmt: skip
        row, head = block_x(warp), block_y(warp)
        segment = segment_of_row(segments, read_global_i64(segments + NUM_SEGMENTS), row)
        token = row - read_global_i64(segment + FIRST_ROW)
        position = read_global_i64(segment + POSITION) + token
        page, place = page_of(segment, position), position % PAGE_POSITIONS
        at = row * kv_stride + head * head_size * 4
        store_key(k + at, page + key_offset + head * key_head_bytes, head_size, place)
        store_value(v + at, page + value_offset + head * value_head_bytes, head_size, place)
        if staged_q != 0:
            num_bytes = num_heads // num_kv_heads * head_size * 4
            copy_row(q + row * q_stride + head * num_bytes,
                     staged_q + row * staged_stride + head * num_bytes, num_bytes)  # fmt: skip

    return kernel
