"""Rotary positions, and storing keys and values into the cache.

The cache of one layer and head: keys in blocks of ``PANEL_VECTORS`` vectors of positions, each
block (head_size, positions), so that scores of neighbouring keys fall into neighbouring lanes;
values as plain rows.
"""

from __future__ import annotations

from edgellama.kernels_cpu.signatures import PANEL_VECTORS
from edgellama.kernels_cpu.simd import (
    f32_zeros_4,
    fma,
    lane_count,
    load_f32,
    mul,
    read_f32,
    store,
    swap_pairs,
    write_f16,
    write_f32,
)

STORES = {"f32": (write_f32, 4), "f16": (write_f16, 2)}
"""Per cache type: how one number is written, and its bytes."""


def rope():
    """Rotate neighbouring pairs of every head in place (Su et al. 2021).

    ``cos_sin`` holds per token cos(a0) cos(a0) cos(a1) cos(a1) … and then -sin(a0) sin(a0) …
    """

    def kernel(
        x, stride, num_heads, head_size, num_pairs, cos_sin, num_tokens, thread, num_threads
    ):
        like = f32_zeros_4()
        units = num_tokens * num_heads
        whole = num_pairs // 2 * 4
        for unit in range(units * thread // num_threads, units * (thread + 1) // num_threads):
            token = unit // num_heads
            head = x + token * stride + (unit - token * num_heads) * head_size * 4
            cosines = cos_sin + token * num_pairs * 16
            sines = cosines + num_pairs * 8
            for i in range(0, 4 * whole, 16):
                v = load_f32(head + i, like)
                turned = mul(swap_pairs(v), load_f32(sines + i, like))
                store(head + i, fma(v, load_f32(cosines + i, like), turned))
            if whole < 2 * num_pairs:
                at = 4 * whole
                x0, x1 = read_f32(head + at), read_f32(head + at + 4)
                cosine, sine = read_f32(cosines + at), read_f32(sines + at + 4)
                write_f32(head + at, x0 * cosine - x1 * sine)
                write_f32(head + at + 4, x1 * cosine + x0 * sine)

    return kernel


def store_kv(kind):
    """Append the keys and values of the step's tokens from ``position`` on."""
    write, number_bytes = STORES[kind]

    def kernel(
        k, v, stride, head_size, num_kv_heads, keys, values, key_head_bytes, value_head_bytes,
        value_row_bytes, position, num_tokens, thread, num_threads,
    ):  # fmt: skip
        block_keys = PANEL_VECTORS * lane_count()
        units = num_tokens * num_kv_heads
        for unit in range(units * thread // num_threads, units * (thread + 1) // num_threads):
            token = unit // num_kv_heads
            head = unit - token * num_kv_heads
            place = position + token
            source = token * stride + head * head_size * 4
            block = place // block_keys
            key_at = keys + head * key_head_bytes
            key_at += (block * head_size * block_keys + place - block * block_keys) * number_bytes
            value_at = values + head * value_head_bytes + place * value_row_bytes
            for i in range(head_size):
                write(key_at + i * block_keys * number_bytes, read_f32(k + source + 4 * i))
                write(value_at + i * number_bytes, read_f32(v + source + 4 * i))

    return kernel
