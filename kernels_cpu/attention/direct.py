"""Scores and weighted sums in f32, computed on the cache as it is.

The engine uses these functions for few queries, and for f32 caches. Each function serves a tile of
``rows`` queries. Lanes are positions while scores are computed and head elements while values are
summed. The loop over pages is left to ``kernels``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgellama.kernels_cpu.attention.cache_numbers import (
    key_vectors,
    panel_lanes,
    scale_bytes,
    value_row_bytes,
    value_vectors,
)
from edgellama.kernels_cpu.attention.online_softmax import query_at, scale_row
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, PANEL_VECTORS, SCORE_BYTES, round_up
from edgellama.kernels_cpu.matrices.prefetching import define_ask_in_page, far_block
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.arithmetic import mul
from edgellama.kernels_cpu.simd.attention_vectors import add_scaled_tile, fma_panel, fold_tile
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.halves import load_f16
from edgellama.kernels_cpu.simd.tiles import add_tiles, f32_tile, store_tile
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    store,
)

ROWS_OF_TWO_CHAINS = 4
"""Up to here a second set of accumulators hides the latency of the first."""


@device
def prepare(keys, key_block_bytes, values, value_block_bytes, head_size, num_keys, work):
    """Nothing: the cache is read as it is."""


@device
def finish_weights(scores, num_keys, total, weights):
    """Weights stay as they are; returns what they are multiples of."""
    return np.float32(1.0)


def key_tile(kind: str, rows: int) -> Any:
    """Device function: unscaled scores of elements ``first`` to ``last`` with one key block."""
    even, odd = key_vectors(kind)
    two_chains, bits = rows <= ROWS_OF_TWO_CHAINS, CACHE_NUMBER_BITS[kind]
    ask_ahead = define_ask_in_page(PANEL_VECTORS * bits)

    @device
    def multiply(numbers, first, last, query, query_bytes, far):
        like = f32_zeros()
        tile = other = f32_tile(PANEL_VECTORS, rows)
        for i in range(first, last, 2):
            ask_ahead(numbers + i * panel_lanes() * bits // 8, far, like)
            tile = fma_panel(
                tile,
                even(numbers, i, 0, like),
                even(numbers, i, 1, like),
                query + 4 * i,
                query_bytes,
            )
            if two_chains:
                other = fma_panel(
                    other, odd(numbers, i, 0, like), odd(numbers, i, 1, like), query + 4 * i + 4,
                    query_bytes,
                )  # fmt: skip
            else:
                tile = fma_panel(
                    tile, odd(numbers, i, 0, like), odd(numbers, i, 1, like), query + 4 * i + 4,
                    query_bytes,
                )  # fmt: skip
        return add_tiles(tile, other) if two_chains else tile

    return multiply


def score(kind: str, rows: int) -> Any:
    """Device function: scores of ``rows`` queries with ``num_keys`` keys, in whole key blocks."""
    multiply = key_tile(kind, rows)
    elements = CACHE_SCALE_ELEMENTS.get(kind, 0)
    scales_bytes = scale_bytes(kind)

    @device
    def of_block(block, head_size, query, query_bytes, far):
        if elements == 0:
            return multiply(block, 0, head_size, query, query_bytes, far)
        tile = f32_tile(PANEL_VECTORS, rows)
        numbers, scales = block + scales_bytes(head_size), block
        for i in range(0, head_size, elements):
            last = min(i + elements, head_size)
            part = multiply(numbers, i, last, query, query_bytes, far)
            like = f32_zeros()
            second = load_f16(scales + 2 * lane_count(), like)
            tile = add_scaled_tile(tile, part, load_f16(scales, like), second)
            scales += 2 * panel_lanes()
        return tile

    @device
    def score_rows(query, query_bytes, query_scales, head_size, keys, following, key_block_bytes,
                   num_keys, scores, work):  # fmt: skip
        num_blocks = round_up(num_keys, panel_lanes()) // panel_lanes()
        for key in range(0, num_keys, panel_lanes()):
            far = far_block(keys, key // panel_lanes(), num_blocks, key_block_bytes, following)
            tile = of_block(keys, head_size, query, query_bytes, far)
            store_tile(tile, scores + 4 * key, SCORE_BYTES)
            keys += key_block_bytes

    return score_rows


@device
def scale_weights(weights, rows, num_keys, scales, value_block_bytes, target):
    """Weights of all rows times the values' scales, which lie in each block."""
    like = f32_zeros()
    for key in range(0, num_keys, panel_lanes()):
        for i in range(0, panel_lanes(), lane_count()):
            factors = load_f16(scales + 2 * i, like)
            for row in range(rows):
                at = row * SCORE_BYTES + 4 * (key + i)
                store(target + at, mul(load_f32(weights + at, like), factors))
        scales += value_block_bytes


def value_tile(kind: str, rows: int) -> Any:
    """Device function: weighted sum of one panel of the values' elements over all keys."""
    first, second = value_vectors(kind)
    row_bytes, bits = value_row_bytes(kind), CACHE_NUMBER_BITS[kind]
    ask_ahead = define_ask_in_page(PANEL_VECTORS * bits // 2)

    @device
    def sum_values(weights, numbers, following, value_block_bytes, element, head_size, num_keys):
        like = f32_zeros()
        tile = f32_tile(PANEL_VECTORS, rows)
        num_blocks = PAGE_POSITIONS // panel_lanes()
        for key in range(0, num_keys, panel_lanes()):
            number = key // panel_lanes()
            far = far_block(numbers, number, num_blocks, value_block_bytes, following)
            row = numbers
            for i in range(key, min(key + panel_lanes(), num_keys)):
                ask_ahead(row + element * bits // 8, far, like)
                tile = fma_panel(
                    tile, first(row, element, like), second(row, element, like), weights + 4 * i,
                    SCORE_BYTES,
                )  # fmt: skip
                row += row_bytes(head_size)
            numbers += value_block_bytes
        return tile

    return sum_values


def gather(kind: str, rows: int) -> Any:
    """Device function: output = output * shrink + gain * weights times values."""
    sum_values = value_tile(kind, rows)
    elements = CACHE_SCALE_ELEMENTS.get(kind, 0)
    scales_bytes = scale_bytes(kind)

    @device
    def gather_rows(scores, num_keys, head_size, values, following, value_block_bytes, output,
                    output_bytes, shrink, gain, work):  # fmt: skip
        weights, numbers = scores, values + scales_bytes(head_size)
        following += scales_bytes(head_size)
        for element in range(0, head_size, panel_lanes()):
            if elements != 0 and element % elements == 0:
                weights = work
                scale_weights(scores, rows, num_keys,
                              values + element // elements * 2 * panel_lanes(),
                              value_block_bytes, weights)  # fmt: skip
            tile = sum_values(weights, numbers, following, value_block_bytes, element, head_size,
                              num_keys)  # fmt: skip
            fold_tile(tile, output + 4 * element, output_bytes, shrink, gain)

    return gather_rows


def load(rows: int) -> Any:
    """Device function: the next ``rows`` queries of a task, scaled, as far as there are any."""

    @device
    def load_queries(q, q_stride, group, scale, head_size, first, num_rows, queries, query_bytes,
                     query_scales):  # fmt: skip
        for row in range(first, min(first + rows, num_rows)):
            at = query_at(q, q_stride, group, head_size, row)
            scale_row(at, scale, head_size, queries + row * query_bytes)

    return load_queries


def direct(key_kind: str, value_kind: str, rows: int) -> tuple[Any, ...]:
    """Device functions load_queries, prepare, score, finish_weights and gather."""
    return (
        load(rows), prepare, score(key_kind, rows), finish_weights, gather(value_kind, rows)
    )  # fmt: skip
