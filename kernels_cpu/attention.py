"""Causal attention over the cache with an online softmax (Milakov and Gimelshein 2018).

A task is one KV head and a few tokens: all query heads that share the KV head go together, so
that each key and value is read once for all of them. Keys are taken ``ATTENTION_KEYS`` at a
time; both products are register tiles, with keys and then head elements in the lanes.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.signatures import ATTENTION_KEYS, CACHE_NUMBER_BYTES, PANEL_VECTORS
from edgellama.kernels_cpu.simd import (
    f32_zeros,
    f32_zeros_4,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    store,
    write_f32,
)
from edgellama.kernels_cpu.simd_math import (
    add,
    exponential,
    mask_from,
    max_lanes,
    maximum,
    mul,
    sub,
    sum_lanes,
)
from edgellama.kernels_cpu.simd_tiles import FMA_TILE, f32_tile, load_tile, store_tile
from edgellama.kernels_cpu.tasks import claim, finish

SCORE_BYTES = 4 * ATTENTION_KEYS


@device
def softmax_row(scores, num_keys, statistics, output, output_bytes):
    """Turn one row of scores into weights; fold the change of the maximum into the output.

    ``statistics`` holds the running maximum and the running sum of weights.
    """
    lanes = lane_count()
    largest = splat_f32(np.float32(-np.inf), f32_zeros())
    for i in range(0, num_keys, lanes):
        v = mask_from(load_f32(scores + 4 * i, largest), num_keys - i)
        store(scores + 4 * i, v)
        largest = maximum(v, largest)
    before = read_f32(statistics)
    now = max(before, max_lanes(largest))
    shift = splat_f32(now, largest)
    total = f32_zeros()
    for i in range(0, num_keys, lanes):
        v = exponential(sub(load_f32(scores + 4 * i, total), shift))
        store(scores + 4 * i, v)
        total = add(total, v)
    shrink = max_lanes(exponential(splat_f32(before - now, f32_zeros_4())))
    write_f32(statistics, now)
    write_f32(statistics + 4, read_f32(statistics + 4) * shrink + sum_lanes(total))
    if shrink != np.float32(1.0):
        factor = splat_f32(shrink, total)
        for i in range(0, output_bytes, 4 * lanes):
            store(output + i, mul(load_f32(output + i, total), factor))


@device
def clear(address, num_bytes):
    """Zero f32 memory; a multiple of four numbers."""
    for i in range(0, num_bytes, 16):
        store(address + i, f32_zeros_4())


@device
def round_up(number, multiple):
    """The next multiple."""
    return (number + multiple - 1) // multiple * multiple


@device
def load_query(q, scale, head_size, query):
    """One scaled query."""
    for i in range(head_size):
        write_f32(query + 4 * i, read_f32(q + 4 * i) * scale)


@device
def write_row(output, total, head_size, y):
    """One finished row, divided by the sum of its weights."""
    inverse = np.float32(1.0) / total
    for i in range(head_size):
        write_f32(y + 4 * i, read_f32(output + 4 * i) * inverse)


def attention(kind, rows):
    """softmax(q k^T scale) v over all keys up to each token, ``rows`` query rows at a time."""
    fma_tile, number_bytes = FMA_TILE[kind], CACHE_NUMBER_BYTES[kind]

    @device
    def score(query, head_size, keys, scores, num_keys):
        """Scores of ``rows`` queries with ``num_keys`` keys, rounded up to whole key blocks."""
        step = PANEL_VECTORS * lane_count() * number_bytes
        for key in range(0, num_keys, PANEL_VECTORS * lane_count()):
            tile = f32_tile(PANEL_VECTORS, rows)
            for i in range(head_size):
                tile = fma_tile(tile, keys + i * step, query + 4 * i, 4 * head_size)
            store_tile(tile, scores + 4 * key, SCORE_BYTES)
            keys += head_size * step

    @device
    def gather(weights, values, value_row_bytes, num_keys, output, output_bytes):
        """output += weights times values for ``rows`` rows."""
        for i in range(0, output_bytes // 4, PANEL_VECTORS * lane_count()):
            tile = load_tile(f32_tile(PANEL_VECTORS, rows), output + 4 * i, output_bytes)
            value = values + i * number_bytes
            for key in range(num_keys):
                tile = fma_tile(tile, value, weights + 4 * key, SCORE_BYTES)
                value += value_row_bytes
            store_tile(tile, output + 4 * i, output_bytes)

    @device
    def attend(query, row, head_size, group, position, keys, values, value_row_bytes, last_row,
               scores, statistics, outputs, output_bytes):  # fmt: skip
        """``rows`` query rows from ``row`` on over all the keys that they see."""
        seen = position + min(row + rows - 1, last_row) // group + 1
        for key in range(0, seen, ATTENTION_KEYS):
            num_keys = min(ATTENTION_KEYS, seen - key)
            score(query, head_size, keys + key * head_size * number_bytes, scores, num_keys)
            for i in range(rows):
                visible = position + min(row + i, last_row) // group + 1 - key
                visible = min(num_keys, max(visible, 0))
                at = scores + i * SCORE_BYTES
                if visible > 0:
                    softmax_row(
                        at, visible, statistics + 8 * i, outputs + i * output_bytes, output_bytes
                    )
                for j in range(round_up(visible, lane_count()), num_keys):
                    write_f32(at + 4 * j, np.float32(0.0))
            gather(
                scores,
                values + key * value_row_bytes,
                value_row_bytes,
                num_keys,
                outputs,
                output_bytes,
            )

    return _tasks(attend, rows, number_bytes)


def _tasks(attend, rows, number_bytes):
    def kernel(
        q, q_stride, y, y_stride, head_size, num_heads, num_kv_heads, keys, values, key_head_bytes,
        value_head_bytes, value_row_bytes, position, num_tokens, scale, tokens_per_task,
        scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        group = num_heads // num_kv_heads
        output_bytes = value_row_bytes // number_bytes * 4
        scores = scratch + thread * scratch_stride
        statistics = scores + rows * SCORE_BYTES
        outputs = statistics + 8 * 8
        queries = outputs + rows * output_bytes
        num_tasks = (num_tokens + tokens_per_task - 1) // tokens_per_task * num_kv_heads
        num_done = 0
        task = claim(counter, job, num_tasks)
        while task < num_tasks:
            kv_head = task % num_kv_heads
            first_token = task // num_kv_heads * tokens_per_task
            last_row = min(tokens_per_task, num_tokens - first_token) * group - 1
            source = first_token * q_stride + kv_head * group * head_size * 4
            target = first_token * y_stride + kv_head * group * head_size * 4
            for row in range(0, last_row + 1, rows):
                clear(outputs, rows * output_bytes)
                for i in range(rows):
                    place = min(row + i, last_row)
                    at = source + place // group * q_stride + place % group * head_size * 4
                    load_query(q + at, scale, head_size, queries + i * head_size * 4)
                    write_f32(statistics + 8 * i, np.float32(-np.inf))
                    write_f32(statistics + 8 * i + 4, np.float32(0.0))
                attend(queries, row, head_size, group, position + first_token,
                       keys + kv_head * key_head_bytes, values + kv_head * value_head_bytes,
                       value_row_bytes, last_row, scores, statistics,
                       outputs, output_bytes)  # fmt: skip
                for i in range(min(rows, last_row + 1 - row)):
                    place = row + i
                    at = target + place // group * y_stride + place % group * head_size * 4
                    write_row(
                        outputs + i * output_bytes,
                        read_f32(statistics + 8 * i + 4),
                        head_size,
                        y + at,
                    )
            num_done += 1
            task = claim(counter, job, num_tasks)
        finish(counter, num_done, num_tasks)

    return kernel
