"""Scores and weighted sums in 16-bit integers, for many queries that share keys and values.

Keys and values are converted to integers once for all queries. Each key and each query is scaled
to a norm below 2**15, so by the Cauchy-Schwarz inequality a product of the two fits 32 bits. The
weights of a row add up to less than 2**16 and values are below 2**15, so their products fit too.
The rounding errors are smaller than those of halves: a step is 1/32000 of a key's norm, and 1/65000
of a row's sum of weights.
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
from edgellama.kernels_cpu.attention.online_softmax import query_at
from edgellama.kernels_cpu.layouts import (
    ATTENTION_KEYS,
    PACKED_ROWS,
    PANEL_VECTORS,
    SCORE_BYTES,
    WEIGHT_BYTES,
    packed_places,
)
from edgellama.kernels_cpu.signatures import CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.arithmetic import (
    add,
    div,
    fma,
    magnitude,
    maximum,
    mul,
    square_root,
)
from edgellama.kernels_cpu.simd.attention_vectors import (
    fold_scaled_tile,
    i32_tile,
    multiply_pairs_tile,
    store_scaled_tile,
    store_word_pairs,
    store_words,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.halves import load_f16, read_half
from edgellama.kernels_cpu.simd.rounding import (
    square_roots,
    store_low_words,
    truncate,
    with_sign_of,
    write_i16,
)
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    store,
    write_f32,
)

LARGEST_NORM = np.float32(32000.0)
LARGEST_VALUE = np.float32(32767.0)
LARGEST_SUM = np.float32(65000.0)
TINY = np.float32(1e-30)
"""Norms below are taken for it, so that nothing is divided by zero."""


@device
def sums_of_squares(rows, num_values):
    """Those of PACKED_ROWS rows, side by side, since each number waits for the sum before it."""
    first, second, third, fourth, fifth, sixth = rows
    a = b = c = d = e = f = np.float32(0.0)
    for i in range(0, 4 * num_values, 4):
        u, v, w = read_f32(first + i), read_f32(second + i), read_f32(third + i)
        x, y, z = read_f32(fourth + i), read_f32(fifth + i), read_f32(sixth + i)
        a, b, c = a + u * u, b + v * v, c + w * w
        d, e, f = d + x * x, e + y * y, f + z * z
    return a, b, c, d, e, f


@device
def load_query(q, squares, scale, head_size, query, query_scale):
    """One query as integers, an even number of them, and what they are multiples of."""
    norm = max(square_root(squares), TINY)
    factor = LARGEST_NORM / norm
    factors = splat_f32(factor, f32_zeros())
    whole = head_size // lane_count() * lane_count()
    for i in range(0, whole, lane_count()):
        values = mul(load_f32(q + 4 * i, factors), factors)
        halves = with_sign_of(splat_f32(np.float32(0.5), values), values)
        store_low_words(query + 2 * i, truncate(add(values, halves)))
    for i in range(whole, head_size):
        value = read_f32(q + 4 * i) * factor
        half = np.float32(0.5) if value >= np.float32(0.0) else np.float32(-0.5)
        write_i16(query + 2 * i, np.int64(value + half))
    write_f32(query_scale, norm / LARGEST_NORM * scale)


@device
def load_queries(q, q_stride, group, scale, head_size, first, num_rows, queries, query_bytes,
                 query_scales):  # fmt: skip
    """The next PACKED_ROWS queries of a task from ``first`` on, as far as there are any."""
    last = num_rows - 1
    rows = (
        query_at(q, q_stride, group, head_size, first),
        query_at(q, q_stride, group, head_size, min(first + 1, last)),
        query_at(q, q_stride, group, head_size, min(first + 2, last)),
        query_at(q, q_stride, group, head_size, min(first + 3, last)),
        query_at(q, q_stride, group, head_size, min(first + 4, last)),
        query_at(q, q_stride, group, head_size, min(first + 5, last)),
    )
    squares = sums_of_squares(rows, head_size)
    for i in range(min(PACKED_ROWS, num_rows - first)):
        row = first + i
        load_query(rows[i], squares[i], scale, head_size, queries + row * query_bytes,
                   query_scales + 4 * row)  # fmt: skip


def pack_keys(kind: str) -> Any:
    """Device function: the keys' positions of ``num_keys`` in whole blocks as pairs of elements.

    A block becomes (pairs, positions); each position has a scale.
    """
    even, odd = key_vectors(kind)
    elements = CACHE_SCALE_ELEMENTS.get(kind, 0)
    scales_bytes = scale_bytes(kind)

    @device
    def squares(numbers, first, last, vector):
        like = f32_zeros()
        total = other = like
        for i in range(first, last, 2):
            x, y = even(numbers, i, vector, like), odd(numbers, i, vector, like)
            total, other = fma(x, x, total), fma(y, y, other)
        return fma(splat_f32(np.float32(1.0), like), total, other)

    @device
    def norms(block, head_size, vector):
        numbers = block + scales_bytes(head_size)
        if elements == 0:
            return square_roots(squares(numbers, 0, head_size, vector))
        total = f32_zeros()
        for i in range(0, head_size, elements):
            at = block + (i // elements * panel_lanes() + vector * lane_count()) * 2
            scale = load_f16(at, total)
            part = squares(numbers, i, min(i + elements, head_size), vector)
            total = fma(mul(scale, scale), part, total)
        return square_roots(total)

    @device
    def pack_range(numbers, first, last, vector, factor, packed):
        for i in range(first, last, 2):
            store_word_pairs(
                packed + (i + vector) * lane_count() * 4,
                even(numbers, i, vector, factor),
                odd(numbers, i, vector, factor),
                factor,
            )

    @device
    def pack(keys, key_block_bytes, head_size, num_keys, packed, scales):
        for key in range(0, num_keys, panel_lanes()):
            numbers = keys + scales_bytes(head_size)
            for vector in range(PANEL_VECTORS):
                largest = splat_f32(LARGEST_NORM, f32_zeros())
                norm = maximum(norms(keys, head_size, vector), splat_f32(TINY, largest))
                store(scales + 4 * (key + vector * lane_count()), div(norm, largest))
                factor = div(largest, norm)
                if elements == 0:
                    pack_range(numbers, 0, head_size, vector, factor, packed)
                else:
                    for i in range(0, head_size, elements):
                        at = keys + (i // elements * panel_lanes() + vector * lane_count()) * 2
                        scaled = mul(load_f16(at, factor), factor)
                        last = min(i + elements, head_size)
                        pack_range(numbers, i, last, vector, scaled, packed)
            keys += key_block_bytes
            packed += head_size // 2 * panel_lanes() * 4

    return pack


def pack_values(kind: str) -> Any:
    """Device function: values as pairs of keys, (panels, pairs, elements), a scale an element."""
    readers = value_vectors(kind)
    row_bytes = value_row_bytes(kind)
    elements = CACHE_SCALE_ELEMENTS.get(kind, 0)
    scales_bytes = scale_bytes(kind)

    def of_vector(vector: int) -> Any:
        read = readers[vector]

        @device
        def value(block, place, element, head_size, like):
            row = block + scales_bytes(head_size) + place * row_bytes(head_size)
            v = read(row, element, like)
            if elements == 0:
                return v
            scale = read_half(block + (element // elements * panel_lanes() + place) * 2)
            return mul(v, splat_f32(scale, v))

        @device
        def pack(values, value_block_bytes, element, head_size, num_keys, packed, scales):
            like = f32_zeros()
            largest = splat_f32(TINY, like)
            block = values
            for key in range(0, num_keys, panel_lanes()):
                for place in range(min(panel_lanes(), num_keys - key)):
                    v = value(block, place, element, head_size, like)
                    largest = maximum(magnitude(v), largest)
                block += value_block_bytes
            limit = splat_f32(LARGEST_VALUE, like)
            store(scales, div(largest, limit))
            factor, block = div(limit, largest), values
            for key in range(0, num_keys, panel_lanes()):
                last = min(panel_lanes(), num_keys - key) - 1
                for place in range(0, last + 1, 2):
                    v = value(block, place, element, head_size, like)
                    w = value(block, min(place + 1, last), element, head_size, like)
                    store_word_pairs(packed, v, w, factor)
                    packed += panel_lanes() * 4
                block += value_block_bytes

        return pack

    first, second = of_vector(0), of_vector(1)

    @device
    def pack_panels(values, value_block_bytes, head_size, num_keys, packed, scales):
        for element in range(0, head_size, panel_lanes()):
            first(values, value_block_bytes, element, head_size, num_keys, packed,
                  scales + 4 * element)  # fmt: skip
            second(values, value_block_bytes, element, head_size, num_keys,
                   packed + 4 * lane_count(), scales + 4 * (element + lane_count()))  # fmt: skip
            packed += ATTENTION_KEYS // 2 * panel_lanes() * 4

    return pack_panels


@device
def places(work, head_size):
    """Where ``work`` holds the scales of keys and values, and packed keys and values."""
    key_scales, value_scales, keys, values = packed_places(head_size)
    return work + key_scales, work + value_scales, work + keys, work + values


def prepare(key_kind: str, value_kind: str) -> Any:
    """Device function that packs a block of keys and values."""
    keys_to, values_to = pack_keys(key_kind), pack_values(value_kind)

    @device
    def pack(keys, key_block_bytes, values, value_block_bytes, head_size, num_keys, work):
        key_scales, value_scales, packed_keys, packed_values = places(work, head_size)
        keys_to(keys, key_block_bytes, head_size, num_keys, packed_keys, key_scales)
        values_to(values, value_block_bytes, head_size, num_keys, packed_values, value_scales)

    return pack


def score(rows: int) -> Any:
    """Device function: scores of ``rows`` queries with ``num_keys`` keys, in whole key blocks."""

    @device
    def score_rows(query, query_bytes, query_scales, head_size, keys, following, key_block_bytes,
                   num_keys, scores, work):  # fmt: skip
        key_scales, _value_scales, packed, _packed_values = places(work, head_size)
        for key in range(0, num_keys, panel_lanes()):
            tile = i32_tile(PANEL_VECTORS, rows)
            for i in range(0, 2 * head_size, 4):
                tile = multiply_pairs_tile(tile, packed, query + i, query_bytes)
                packed += panel_lanes() * 4
            store_scaled_tile(
                tile, scores + 4 * key, SCORE_BYTES, key_scales + 4 * key, query_scales
            )

    return score_rows


@device
def finish_weights(scores, num_keys, total, weights):
    """Weights as integers; returns how many of them make one."""
    factor = LARGEST_SUM / max(total, np.float32(2.0))
    factors = splat_f32(factor, f32_zeros())
    for i in range(0, num_keys, lane_count()):
        store_words(weights + 2 * i, load_f32(scores + 4 * i, factors), factors)
    return factor


def gather(rows: int) -> Any:
    """Device function: output = output * shrink + gain * weights times values."""

    @device
    def gather_rows(scores, num_keys, head_size, values, following, value_block_bytes, output,
                    output_bytes, shrink, gain, work):  # fmt: skip
        _key_scales, value_scales, _packed_keys, packed = places(work, head_size)
        for element in range(0, head_size, panel_lanes()):
            tile, panel = i32_tile(PANEL_VECTORS, rows), packed
            for i in range(0, 2 * num_keys, 4):
                tile = multiply_pairs_tile(tile, panel, work + i, WEIGHT_BYTES)
                panel += panel_lanes() * 4
            fold_scaled_tile(tile, output + 4 * element, output_bytes, shrink, gain,
                             value_scales + 4 * element)  # fmt: skip
            packed += ATTENTION_KEYS // 2 * panel_lanes() * 4

    return gather_rows


def packed(key_kind: str, value_kind: str, rows: int) -> tuple[Any, ...]:
    """Device functions load_queries, prepare, score, finish_weights and gather."""
    return load_queries, prepare(key_kind, value_kind), score(rows), finish_weights, gather(rows)
