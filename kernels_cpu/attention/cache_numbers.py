"""How each type of the KV cache lies in memory, and how kernels read it. New types are added here.

The cache of a head is a series of blocks; a block has as many positions as a panel has lanes. A
block of a quantized type begins with its scales: halves, one for every 32 elements of a position,
with the scales of neighbouring positions side by side. The numbers follow. Keys lie as (elements,
positions), so that the scores of neighbouring keys come out in neighbouring lanes. Values lie as
one row for each position, padded to whole panels. The two nibbles of a byte are elements of the
same position, because threads store positions independently.
"""

from __future__ import annotations

from typing import Any

from edgellama.kernels_cpu import layouts
from edgellama.kernels_cpu.layouts import PANEL_VECTORS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.attention_vectors import (
    load_high_nibbles,
    load_low_nibbles,
    load_signed_bytes,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.halves import load_bf16, load_f16
from edgellama.kernels_cpu.simd.vectors import lane_count, load_f32

LOADS = {"f32": load_f32, "f16": load_f16, "bf16": load_bf16, "q8_0": load_signed_bytes}
"""Types whose numbers are whole bytes: how a vector of them becomes f32."""


@device
def panel_lanes():
    """Lanes of a panel: positions of a block, elements of a step over a value row."""
    return PANEL_VECTORS * lane_count()


def scale_bytes(kind: str) -> Any:
    """Device function ``(head_size)``: bytes of the scales of one block."""
    elements = CACHE_SCALE_ELEMENTS.get(kind, 0)

    @device
    def num_bytes(head_size):
        return layouts.scales_bytes(head_size, elements, panel_lanes())

    return num_bytes


def value_row_bytes(kind: str) -> Any:
    """Device function ``(head_size)``: bytes of one position's values."""
    bits = CACHE_NUMBER_BITS[kind]

    @device
    def num_bytes(head_size):
        return layouts.value_row_bytes(head_size, bits, panel_lanes())

    return num_bytes


def key_vectors(kind: str) -> tuple[Any, Any]:
    """Device functions ``(numbers, i, vector, like)`` for element ``i``, even, and for the next.

    They give unscaled f32 of the positions in the block's first or second ``vector``.
    """
    if kind == "q4_0":

        @device
        def even(numbers, i, vector, like):
            return load_low_nibbles(numbers + (i + vector) * lane_count(), like)

        @device
        def odd(numbers, i, vector, like):
            return load_high_nibbles(numbers + (i + vector) * lane_count(), like)

        return even, odd
    load, number_bytes = LOADS[kind], CACHE_NUMBER_BITS[kind] // 8

    @device
    def first(numbers, i, vector, like):
        return load(numbers + (2 * i + vector) * lane_count() * number_bytes, like)

    @device
    def second(numbers, i, vector, like):
        return load(numbers + (2 * i + 2 + vector) * lane_count() * number_bytes, like)

    return first, second


def value_vectors(kind: str) -> tuple[Any, Any]:
    """Device functions ``(row, i, like)`` for the two vectors of the panel from element ``i`` on.

    They give unscaled f32.
    """
    if kind == "q4_0":

        @device
        def low(row, i, like):
            return load_low_nibbles(row + i // 2, like)

        @device
        def high(row, i, like):
            return load_high_nibbles(row + i // 2, like)

        return low, high
    load, number_bytes = LOADS[kind], CACHE_NUMBER_BITS[kind] // 8

    @device
    def first(row, i, like):
        return load(row + i * number_bytes, like)

    @device
    def second(row, i, like):
        return load(row + (i + lane_count()) * number_bytes, like)

    return first, second
