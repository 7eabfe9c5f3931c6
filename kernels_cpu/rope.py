"""Rotary positions, and storing keys and values into the cache.

The cache of one layer and head: keys in blocks of ``PANEL_VECTORS`` vectors of positions, each
block (head_size, positions), so that scores of neighbouring keys fall into neighbouring lanes;
values as plain rows.
"""

from __future__ import annotations

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BYTES, PANEL_VECTORS
from edgellama.kernels_cpu.simd import f32_zeros_4, lane_count, load_f32, read_f32, store, write_f32
from edgellama.kernels_cpu.simd_half import write_f16
from edgellama.kernels_cpu.simd_math import fma, mul, swap_pairs
from edgellama.kernels_cpu.tasks import claim, finish

STORES = {"f32": write_f32, "f16": write_f16}
"""Per cache type: how one number is written."""


@device
def rotate_head(head, num_pairs, cosines, sines):
    """Rotate neighbouring pairs in place (Su et al. 2021).

    The tables hold cos(a0) cos(a0) cos(a1) cos(a1) … and -sin(a0) sin(a0) …
    """
    like = f32_zeros_4()
    whole = num_pairs // 2 * 2
    for i in range(0, 8 * whole, 16):
        v = load_f32(head + i, like)
        turned = mul(swap_pairs(v), load_f32(sines + i, like))
        store(head + i, fma(v, load_f32(cosines + i, like), turned))
    if whole < num_pairs:
        at = 8 * whole
        x0, x1 = read_f32(head + at), read_f32(head + at + 4)
        cosine, sine = read_f32(cosines + at), read_f32(sines + at + 4)
        write_f32(head + at, x0 * cosine - x1 * sine)
        write_f32(head + at + 4, x1 * cosine + x0 * sine)


def rope_store(kind):
    """Rotate queries and keys, append keys and values at ``position``; one token a task."""
    write, number_bytes = STORES[kind], CACHE_NUMBER_BYTES[kind]

    @device
    def store_head(k, v, head_size, key_at, key_step, value_at):
        for i in range(head_size):
            write(key_at + i * key_step, read_f32(k + 4 * i))
            write(value_at + i * number_bytes, read_f32(v + 4 * i))

    def kernel(
        q, q_stride, k, v, kv_stride, head_size, num_heads, num_kv_heads, num_pairs, cos_sin,
        keys, values, key_head_bytes, value_head_bytes, value_row_bytes, position, num_tokens,
        counter, thread, job,
    ):  # fmt: skip
        block_keys = PANEL_VECTORS * lane_count()
        head_bytes = head_size * 4
        num_done = 0
        token = claim(counter, job, num_tokens)
        while token < num_tokens:
            cosines = cos_sin + token * num_pairs * 16
            sines = cosines + num_pairs * 8
            for head in range(num_heads):
                rotate_head(q + token * q_stride + head * head_bytes, num_pairs, cosines, sines)
            place = position + token
            block = place // block_keys
            key_offset = (
                block * head_size * block_keys + place - block * block_keys
            ) * number_bytes
            for head in range(num_kv_heads):
                source = token * kv_stride + head * head_bytes
                rotate_head(k + source, num_pairs, cosines, sines)
                store_head(k + source, v + source, head_size,
                           keys + head * key_head_bytes + key_offset, block_keys * number_bytes,
                           values + head * value_head_bytes + place * value_row_bytes)  # fmt: skip
            num_done += 1
            token = claim(counter, job, num_tokens)
        finish(counter, num_done, num_tokens)

    return kernel
