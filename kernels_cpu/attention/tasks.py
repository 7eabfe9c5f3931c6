"""Causal attention over the cache: blocks of keys outside, tiles of query rows inside.

A task is one KV head, some tokens and some of the keys: all query heads that share the KV head
go together, so that each key and value is read once for all of them. Where the keys are split
the tasks leave partial results, which ``merge_attention`` joins in a fixed order; splits are of
a fixed size, so that results do not depend on the threads.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.attention.cache_numbers import panel_lanes, round_up
from edgellama.kernels_cpu.attention.direct import direct
from edgellama.kernels_cpu.attention.online_softmax import (
    LOG2_E,
    add_block,
    clear,
    forget_row,
    largest_score,
    power,
    scale_row,
    weigh,
)
from edgellama.kernels_cpu.attention.packed import packed
from edgellama.kernels_cpu.signatures import ATTENTION_KEYS, MAX_KEY_SPLITS, PARTIAL_HEAD_BYTES
from edgellama.kernels_cpu.simd.arithmetic import fma
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.rounding import write_i32
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros_4,
    load_f32,
    read_f32,
    read_i32,
    splat_f32,
    store,
    write_f32,
)
from edgellama.kernels_cpu.threads.tasks import count_tasks, tasks_of

SCORE_BYTES = 4 * ATTENTION_KEYS
WEIGHT_BYTES = 2 * ATTENTION_KEYS
TILE_BYTES = 8 * SCORE_BYTES + 128
"""Scores, then the factors ``shrink`` and ``gain``, of up to eight rows."""
LINE = 64


@device
def row_places(scratch, num_rows, head_size):
    """Where the statistics, limits, query scales, queries and outputs of a task's rows lie.

    The last place is that of what a method of multiplication needs besides.
    """
    statistics = scratch + TILE_BYTES
    limits = statistics + round_up(8 * num_rows, LINE)
    scales = limits + round_up(4 * num_rows, LINE)
    queries = scales + round_up(4 * num_rows, LINE)
    outputs = queries + num_rows * round_up(4 * head_size, LINE)
    work = outputs + num_rows * round_up(4 * head_size, 4 * panel_lanes())
    return statistics, limits, scales, queries, outputs, round_up(work, LINE)


def attention_direct(key_kind, value_kind, rows):
    """softmax(q k^T scale) v over all keys up to each token, in f32, from the cache as it is."""
    return _attention(direct(key_kind, value_kind, rows), rows)


def attention_packed(key_kind, value_kind, rows):
    """The same in 16-bit integers that all rows of a task share."""
    return _attention(packed(key_kind, value_kind, rows), rows)


def _attention(method, rows):
    load_query, prepare, score, finish_weights, gather = method

    @device
    def start(q, q_stride, scale, position, group, head_size, num_rows, padded_rows, places):
        """Queries, no keys seen, and the position behind the last key that each row sees."""
        statistics, limits, scales, queries, outputs, _work = places
        query_bytes = round_up(4 * head_size, LINE)
        clear(queries, padded_rows * query_bytes)
        clear(outputs, padded_rows * round_up(4 * head_size, 4 * panel_lanes()))
        for row in range(padded_rows):
            place = min(row, num_rows - 1)
            forget_row(statistics + 8 * row)
            write_i32(limits + 4 * row, position + place // group + 1)
            write_f32(scales + 4 * row, np.float32(0.0))
            if row < num_rows:
                at = q + place // group * q_stride + place % group * head_size * 4
                load_query(at, scale, head_size, queries + row * query_bytes, scales + 4 * row)

    @device
    def weigh_rows(scores, key, num_keys, statistics, limits, work):
        """Scores of a tile's rows to weights; their factors go behind the scores.

        Each step is done for all rows before the next, so that none waits for its own result.
        """
        shrink = scores + 8 * SCORE_BYTES
        gain, largest = shrink + 32, shrink + 64
        for i in range(rows):
            visible = min(max(read_i32(limits + 4 * i) - key, 0), num_keys)
            write_f32(largest + 4 * i, largest_score(scores + i * SCORE_BYTES, visible))
        for i in range(rows):
            visible = min(max(read_i32(limits + 4 * i) - key, 0), num_keys)
            top = read_f32(largest + 4 * i)
            total = weigh(scores + i * SCORE_BYTES, visible, num_keys, top)
            write_f32(gain + 4 * i, total)
        for i in range(rows):
            total, top = read_f32(gain + 4 * i), read_f32(largest + 4 * i)
            unit = finish_weights(
                scores + i * SCORE_BYTES, num_keys, total, work + i * WEIGHT_BYTES
            )
            factor = add_block(statistics + 8 * i, top, total, shrink + 4 * i)
            write_f32(gain + 4 * i, factor / unit)

    @device
    def attend(first_key, last_key, num_rows, head_size, keys, key_block_bytes, values,
               value_block_bytes, scratch, places):  # fmt: skip
        """All rows of a task over keys ``first_key`` to ``last_key``."""
        statistics, limits, scales, queries, outputs, work = places
        query_bytes = round_up(4 * head_size, LINE)
        output_bytes = round_up(4 * head_size, 4 * panel_lanes())
        shrink = scratch + 8 * SCORE_BYTES
        for key in range(first_key, last_key, ATTENTION_KEYS):
            block = key // panel_lanes()
            key_at, value_at = keys + block * key_block_bytes, values + block * value_block_bytes
            block_keys = min(ATTENTION_KEYS, last_key - key)
            prepare(key_at, key_block_bytes, value_at, value_block_bytes, head_size, block_keys,
                    work)  # fmt: skip
            for row in range(0, num_rows, rows):
                num_keys = min(block_keys, read_i32(limits + 4 * (row + rows - 1)) - key)
                if num_keys > 0:
                    score(queries + row * query_bytes, query_bytes, scales + 4 * row, head_size,
                          key_at, key_block_bytes, num_keys, scratch, work)  # fmt: skip
                    weigh_rows(scratch, key, num_keys, statistics + 8 * row, limits + 4 * row,
                               work)  # fmt: skip
                    gather(scratch, num_keys, head_size, value_at, value_block_bytes,
                           outputs + row * output_bytes, output_bytes, shrink, shrink + 32,
                           work)  # fmt: skip

    return _kernel(start, attend, rows)


@device
def write_rows(y, y_stride, group, head_size, num_rows, places):
    """Finished rows, divided by the sum of their weights."""
    statistics, _limits, _scales, _queries, outputs, _work = places
    output_bytes = round_up(4 * head_size, 4 * panel_lanes())
    for row in range(num_rows):
        at = y + row // group * y_stride + row % group * head_size * 4
        inverse = np.float32(1.0) / read_f32(statistics + 8 * row + 4)
        scale_row(outputs + row * output_bytes, inverse, head_size, at)


@device
def write_partials(partials, group, num_heads, head_size, num_rows, places):
    """Rows over some of the keys with their statistics, to be merged."""
    statistics, _limits, _scales, _queries, outputs, _work = places
    output_bytes = round_up(4 * head_size, 4 * panel_lanes())
    row_bytes = MAX_KEY_SPLITS * (PARTIAL_HEAD_BYTES + output_bytes)
    for row in range(num_rows):
        at = partials + (row // group * num_heads + row % group) * row_bytes
        write_f32(at, read_f32(statistics + 8 * row))
        write_f32(at + 4, read_f32(statistics + 8 * row + 4))
        source, target = outputs + row * output_bytes, at + PARTIAL_HEAD_BYTES
        for i in range(0, output_bytes, 16):
            store(target + i, load_f32(source + i, f32_zeros_4()))


def _kernel(start, attend, rows):
    def kernel(
        q, q_stride, y, y_stride, head_size, num_heads, num_kv_heads,
        keys, values, key_head_bytes, value_head_bytes, key_block_bytes, value_block_bytes,
        position, num_tokens, scale, tokens_per_task, split_keys, partials,
        scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        group = num_heads // num_kv_heads
        work = scratch + thread * scratch_stride
        num_splits = count_tasks(position + num_tokens, split_keys)
        partial_bytes = PARTIAL_HEAD_BYTES + round_up(4 * head_size, 4 * panel_lanes())
        num_tasks = count_tasks(num_tokens, tokens_per_task) * num_kv_heads * num_splits
        for task in tasks_of(counter, job, num_tasks):
            kv_head, split = task % num_kv_heads, task // num_kv_heads % num_splits
            token = task // num_kv_heads // num_splits * tokens_per_task
            task_tokens = min(tokens_per_task, num_tokens - token)
            num_rows = task_tokens * group
            head = kv_head * group
            places = row_places(work, round_up(num_rows, rows), head_size)
            start(q + token * q_stride + head * head_size * 4, q_stride, scale * LOG2_E,
                  position + token, group, head_size, num_rows, round_up(num_rows, rows),
                  places)  # fmt: skip
            last_key = min((split + 1) * split_keys, position + token + task_tokens)
            attend(split * split_keys, last_key, num_rows, head_size,
                   keys + kv_head * key_head_bytes, key_block_bytes,
                   values + kv_head * value_head_bytes, value_block_bytes, work,
                   places)  # fmt: skip
            if num_splits == 1:
                target = y + token * y_stride + head * head_size * 4
                write_rows(target, y_stride, group, head_size, num_rows, places)
            else:
                first = (token * num_heads + head) * MAX_KEY_SPLITS + split
                write_partials(partials + first * partial_bytes, group, num_heads, head_size,
                               num_rows, places)  # fmt: skip

    return kernel


@device
def merge_head(partials, partial_bytes, num_splits, head_size, y):
    """One head of one token, split by split; y serves as the sum."""
    largest = read_f32(partials)
    for split in range(1, num_splits):
        largest = max(largest, read_f32(partials + split * partial_bytes))
    total, like = np.float32(0.0), f32_zeros_4()
    for split in range(num_splits):
        at = partials + split * partial_bytes
        factor = power(read_f32(at) - largest)
        total += factor * read_f32(at + 4)
        factors = splat_f32(factor, like)
        for i in range(PARTIAL_HEAD_BYTES, partial_bytes, 16):
            if split == 0:
                store(partials + i, fma(load_f32(at + i, like), factors, like))
            else:
                old = load_f32(partials + i, like)
                store(partials + i, fma(load_f32(at + i, like), factors, old))
    scale_row(partials + PARTIAL_HEAD_BYTES, np.float32(1.0) / total, head_size, y)


def merge_attention():
    """Join what tasks over parts of the keys have left; one token a task."""

    def kernel(
        y, y_stride, head_size, num_heads, position, num_tokens, split_keys, partials,
        counter, thread, job,
    ):  # fmt: skip
        partial_bytes = PARTIAL_HEAD_BYTES + round_up(4 * head_size, 4 * panel_lanes())
        for token in tasks_of(counter, job, num_tokens):
            if position + num_tokens > split_keys:
                num_splits = (position + token + split_keys) // split_keys
                for head in range(num_heads):
                    row = token * num_heads + head
                    merge_head(partials + row * MAX_KEY_SPLITS * partial_bytes, partial_bytes,
                               num_splits, head_size,
                               y + token * y_stride + head * head_size * 4)  # fmt: skip

    return kernel
