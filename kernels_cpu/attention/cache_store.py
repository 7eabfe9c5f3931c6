"""Writing one position's key or value into a block of the cache, in each of its types.

Quantized types round as Q8_0 and Q4_0 of GGUF do, in blocks of 32 elements of a head; a head's
last block may be shorter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgellama.kernels_cpu.attention.cache_numbers import panel_lanes, scale_bytes, value_row_bytes
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.device import device, exact_device
from edgellama.kernels_cpu.simd.halves import write_f16
from edgellama.kernels_cpu.simd.rounding import f32_zeros_1, store_bf16, store_f16, write_i8
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    write_f32,
)
from edgellama.kernels_cpu.simd.vectors import store as store_f32


@device
def write_bf16(address, value):
    """Store one bfloat16."""
    store_bf16(address, splat_f32(value, f32_zeros_1()))


WRITES = {"f32": write_f32, "f16": write_f16, "bf16": write_bf16}
STORES = {"f32": store_f32, "f16": store_f16, "bf16": store_bf16}


@exact_device
def byte_scale(x, num_values):
    """What the numbers are multiples of, up to 127 of it."""
    largest = np.float32(0.0)
    for i in range(num_values):
        largest = max(largest, abs(read_f32(x + 4 * i)))
    return largest / np.float32(127.0)


@exact_device
def nibble_scale(x, num_values):
    """What the numbers are multiples of, -8 to 7 of it; negative where the largest is positive."""
    extreme = np.float32(0.0)
    for i in range(num_values):
        value = read_f32(x + 4 * i)
        if abs(value) > abs(extreme):
            extreme = value
    return extreme / np.float32(-8.0)


@exact_device
def inverse(scale):
    """1 / scale, or 0 of 0."""
    if scale == np.float32(0.0):
        return np.float32(0.0)
    return np.float32(1.0) / scale


@exact_device
def as_byte(value, factor):
    """The nearest multiple, ties away from zero."""
    scaled = value * factor
    if scaled < np.float32(0.0):
        return -np.int64(np.float32(0.5) - scaled)
    return np.int64(scaled + np.float32(0.5))


@exact_device
def as_nibble(value, factor):
    """The nearest multiple, 8 larger, from 0 to 15."""
    return min(np.int64(value * factor + np.float32(8.5)), 15)


def key_store(kind: str) -> Any:
    """Device function ``(x, head_size, block, place)`` that writes one position of a key block."""
    return _of_kind(kind, _float_key, _byte_key, _nibble_key)


def value_store(kind: str) -> Any:
    """Device function ``(x, head_size, block, place)`` that writes one row of a value block."""
    return _of_kind(kind, _float_value, _byte_value, _nibble_value)


def _of_kind(kind: str, of_floats: Any, of_bytes: Any, of_nibbles: Any) -> Any:
    if kind in WRITES:
        return of_floats(kind)
    return _scaled(kind, of_bytes if kind == "q8_0" else of_nibbles)


def _scaled(kind: str, write_numbers: Any) -> Any:
    """Scale and numbers of every 32 elements."""
    elements = CACHE_SCALE_ELEMENTS[kind]
    scale_of = byte_scale if kind == "q8_0" else nibble_scale
    scales, row_bytes = scale_bytes(kind), value_row_bytes(kind)

    @device
    def store(x, head_size, block, place):
        numbers = block + scales(head_size)
        for first in range(0, head_size, elements):
            count = min(elements, head_size - first)
            scale = scale_of(x + 4 * first, count)
            write_f16(block + (first // elements * panel_lanes() + place) * 2, scale)
            write_numbers(x, first, count, head_size, inverse(scale), numbers, place,
                          row_bytes(head_size))  # fmt: skip

    return store


@device
def _byte_key(x, first, count, head_size, factor, numbers, place, row_bytes):
    for i in range(first, first + count):
        write_i8(numbers + i * panel_lanes() + place, as_byte(read_f32(x + 4 * i), factor))


@device
def _byte_value(x, first, count, head_size, factor, numbers, place, row_bytes):
    row = numbers + place * row_bytes
    for i in range(first, first + count):
        write_i8(row + i, as_byte(read_f32(x + 4 * i), factor))


@device
def _nibble_key(x, first, count, head_size, factor, numbers, place, row_bytes):
    for i in range(first, first + count, 2):
        low = as_nibble(read_f32(x + 4 * i), factor)
        high = as_nibble(read_f32(x + 4 * i + 4), factor)
        write_i8(numbers + i // 2 * panel_lanes() + place, low | high << 4)


@device
def _nibble_value(x, first, count, head_size, factor, numbers, place, row_bytes):
    """Nibbles of a byte are as far apart as a vector is wide."""
    row, lanes = numbers + place * row_bytes, lane_count()
    for panel in range(first, first + count, panel_lanes()):
        for i in range(panel, min(panel + lanes, head_size)):
            low, high = as_nibble(read_f32(x + 4 * i), factor), 8
            if i + lanes < head_size:
                high = as_nibble(read_f32(x + 4 * (i + lanes)), factor)
            write_i8(row + panel // 2 + i - panel, low | high << 4)


def _float_key(kind: str) -> Any:
    write, number_bytes = WRITES[kind], CACHE_NUMBER_BITS[kind] // 8

    @device
    def store(x, head_size, block, place):
        step = panel_lanes() * number_bytes
        for i in range(head_size):
            write(block + i * step + place * number_bytes, read_f32(x + 4 * i))

    return store


def _float_value(kind: str) -> Any:
    write, store_vector = WRITES[kind], STORES[kind]
    number_bytes = CACHE_NUMBER_BITS[kind] // 8
    row_bytes = value_row_bytes(kind)

    @device
    def store(x, head_size, block, place):
        row = block + place * row_bytes(head_size)
        whole = head_size // lane_count() * lane_count()
        for i in range(0, whole, lane_count()):
            store_vector(row + i * number_bytes, load_f32(x + 4 * i, f32_zeros()))
        for i in range(whole, head_size):
            write(row + i * number_bytes, read_f32(x + 4 * i))

    return store
