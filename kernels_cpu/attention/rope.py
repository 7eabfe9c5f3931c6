"""Applies rotary positions to queries and keys, and passes keys and values on to ``cache_store``.

Pages on a graphics card are written by the card, so for these the kernel ``rope`` only rotates.
Angles are computed by the engine.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.attention.cache_numbers import panel_lanes
from edgellama.kernels_cpu.attention.cache_store import key_store, value_store
from edgellama.kernels_cpu.attention.online_softmax import scale_row
from edgellama.kernels_cpu.attention.segments import find_segment, page_of
from edgellama.kernels_cpu.layouts import (
    FIRST_ROW,
    FIRST_STORE_TASK,
    NUM_TOKENS,
    PAGE_POSITIONS,
    POSITION,
)
from edgellama.kernels_cpu.simd.arithmetic import add, fma, mul, square_root, sub, swap_pairs
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    f32_zeros_4,
    lane_count,
    load_f32,
    read_f32,
    read_i64,
    store,
    write_f32,
)
from edgellama.kernels_cpu.threads.tasks import tasks_of


@device
def rotate(numbers, cosines, sines, like):
    """As many numbers of a head as ``like`` has lanes."""
    v = load_f32(numbers, like)
    turned = mul(swap_pairs(v), load_f32(sines, like))
    store(numbers, fma(v, load_f32(cosines, like), turned))


@device
def rotate_head(head, num_pairs, cosines, sines):
    """Rotate neighbouring pairs in place (Su et al. 2021).

    The tables hold cos(a0) cos(a0) cos(a1) cos(a1) … and -sin(a0) sin(a0) …
    """
    wide = 2 * num_pairs // lane_count() * lane_count() * 4
    whole = num_pairs // 2 * 2
    for i in range(0, wide, 4 * lane_count()):
        rotate(head + i, cosines + i, sines + i, f32_zeros())
    for i in range(wide, 8 * whole, 16):
        rotate(head + i, cosines + i, sines + i, f32_zeros_4())
    if whole < num_pairs:
        at = 8 * whole
        x0, x1 = read_f32(head + at), read_f32(head + at + 4)
        cosine, sine = read_f32(cosines + at), read_f32(sines + at + 4)
        write_f32(head + at, x0 * cosine - x1 * sine)
        write_f32(head + at + 4, x1 * cosine + x0 * sine)


@device
def butterfly(x, step, count):
    """x[i] and x[i + step] become their sum and difference, for ``count`` values of i."""
    whole = count // 4 * 4
    for i in range(0, 4 * whole, 16):
        a, b = load_f32(x + i, f32_zeros_4()), load_f32(x + i + 4 * step, f32_zeros_4())
        store(x + i, add(a, b))
        store(x + i + 4 * step, sub(a, b))
    for i in range(4 * whole, 4 * count, 4):
        first, second = read_f32(x + i), read_f32(x + i + 4 * step)
        write_f32(x + i, first + second)
        write_f32(x + i + 4 * step, first - second)


@device
def spread_head(head, head_size):
    """Hadamard transform of a head's parts, each as long as the largest power of two that divides.

    It keeps the products of a query and a key, and spreads what single elements stand out by,
    which four bits cannot hold beside the others (QuaRot, Ashkboos et al. 2024).
    """
    length = head_size & -head_size
    step = 1
    while step < length:
        for i in range(0, head_size, 2 * step):
            butterfly(head + 4 * i, step, step)
        step *= 2
    scale_row(head, np.float32(1.0) / square_root(np.float32(length)), head_size, head)


def turning(key_kind):
    """Device functions that turn a query or a key for a cache whose keys are of this type.

    Where keys are stored in four bits they are spread besides.
    """
    is_spread = key_kind == "q4_0"

    @device
    def turn_head(head, head_size, num_pairs, cosines, sines):
        rotate_head(head, num_pairs, cosines, sines)
        if is_spread:
            spread_head(head, head_size)

    @device
    def turn_heads(rows, head_size, num_heads, num_pairs, cosines):
        for head in range(num_heads):
            turn_head(rows + head * head_size * 4, head_size, num_pairs, cosines,
                      cosines + num_pairs * 8)  # fmt: skip

    return turn_head, turn_heads


def rope(key_kind):
    """Rotate queries and keys that are stored elsewhere; a token a task."""
    _, turn_heads = turning(key_kind)

    def kernel(
        q, q_stride, k, kv_stride, head_size, num_heads, num_kv_heads, num_pairs, cos_sin,
        num_tokens, counter, thread, job,
    ):  # fmt: skip
        for token in tasks_of(counter, job, num_tokens):
            cosines = cos_sin + token * num_pairs * 16
            turn_heads(q + token * q_stride, head_size, num_heads, num_pairs, cosines)
            turn_heads(k + token * kv_stride, head_size, num_kv_heads, num_pairs, cosines)

    return kernel


def rope_store(key_kind, value_kind):
    """Rotate queries and keys, store keys and values in their pages; a block of keys a task."""
    turn_head, turn_heads = turning(key_kind)
    store_key, store_value = key_store(key_kind), value_store(value_kind)

    def kernel(
        q, q_stride, k, v, kv_stride, head_size, num_heads, num_kv_heads, num_pairs, cos_sin,
        key_offset, value_offset, key_head_bytes, value_head_bytes, key_block_bytes,
        value_block_bytes, segments, num_segments, num_tasks, counter, thread, job,
    ):  # fmt: skip
        head_bytes = head_size * 4
        lanes = panel_lanes()
        for task in tasks_of(counter, job, num_tasks):
            segment = find_segment(segments, num_segments, FIRST_STORE_TASK, task)
            position = read_i64(segment + POSITION)
            end = position + read_i64(segment + NUM_TOKENS)
            first_row = read_i64(segment + FIRST_ROW)
            block = position // lanes + task - read_i64(segment + FIRST_STORE_TASK)
            page = page_of(segment, block * lanes)
            in_page = block % (PAGE_POSITIONS // lanes)
            key_at = page + key_offset + in_page * key_block_bytes
            value_at = page + value_offset + in_page * value_block_bytes
            first, last = block * lanes, min((block + 1) * lanes, end)
            for place in range(max(first, position) - first, last - first):
                token = first_row + first + place - position
                cosines = cos_sin + token * num_pairs * 16
                sines = cosines + num_pairs * 8
                turn_heads(q + token * q_stride, head_size, num_heads, num_pairs, cosines)
                for head in range(num_kv_heads):
                    source = token * kv_stride + head * head_bytes
                    turn_head(k + source, head_size, num_pairs, cosines, sines)
                    store_key(k + source, head_size, key_at + head * key_head_bytes, place)
                    store_value(v + source, head_size, value_at + head * value_head_bytes, place)

    return kernel
