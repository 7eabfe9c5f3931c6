"""Causal attention: an outer loop over pages of keys and values, an inner over tiles of queries.

A task is one KV head, some tokens of a segment and some of their keys. It computes all query heads
that share the KV head, so that each key and value is read once. If keys are split among tasks, the
tasks leave partial results, which ``merge_attention`` joins in a fixed order. Where keys are split
depends only on positions, so results depend neither on threads nor on other segments.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.attention.cache_numbers import panel_lanes
from edgellama.kernels_cpu.attention.direct import direct
from edgellama.kernels_cpu.attention.online_softmax import (
    LOG2_E,
    add_block,
    clear,
    forget_row,
    hide,
    largest_score,
    power,
    scale_row,
    weigh,
)
from edgellama.kernels_cpu.attention.packed import packed
from edgellama.kernels_cpu.attention.segments import find_segment, page_of
from edgellama.kernels_cpu.layouts import (
    ATTENTION_KEYS,
    CACHE_LINE,
    FIRST_ATTEND_TASK,
    FIRST_ROW,
    NUM_TOKENS,
    PACKED_ROWS,
    PAGE_POSITIONS,
    PARTIAL_HEAD_BYTES,
    PARTIALS,
    POSITION,
    SCORE_BYTES,
    SPLIT_KEYS,
    TILE_BYTES,
    TILE_ROWS,
    WEIGHT_BYTES,
    attention_places,
    count_splits,
    first_seen,
    partial_bytes,
    round_up,
)
from edgellama.kernels_cpu.simd.arithmetic import fma
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.rounding import write_i32
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros_4,
    load_f32,
    read_f32,
    read_i32,
    read_i64,
    splat_f32,
    store,
    write_f32,
)
from edgellama.kernels_cpu.threads.tasks import tasks_of


@device
def row_places(scratch, num_rows, head_size):
    """Where the statistics, limits, query scales, queries and outputs of a task's rows lie.

    The last place is that of what a method of multiplication needs besides.
    """
    limits, scales, queries, outputs, own = attention_places(num_rows, head_size, panel_lanes())
    return (
        scratch + TILE_BYTES, scratch + limits, scratch + scales, scratch + queries,
        scratch + outputs, scratch + own,
    )  # fmt: skip


def attention_direct(key_kind, value_kind, rows):
    """softmax(q k^T scale) v over all keys up to each token, in f32, from the cache as it is."""
    return _attention(direct(key_kind, value_kind, rows), rows)


def attention_packed(key_kind, value_kind):
    """The same in 16-bit integers that all rows of a task share."""
    return _attention(packed(key_kind, value_kind, PACKED_ROWS), PACKED_ROWS)


def _attention(method, rows):
    load_queries, prepare, score, finish_weights, gather = method

    @device
    def start(q, q_stride, scale, position, group, head_size, num_rows, padded_rows, places):
        """Queries, no keys seen, and the position behind the last key that each row sees."""
        statistics, limits, scales, queries, outputs, _work = places
        query_bytes = round_up(4 * head_size, CACHE_LINE)
        clear(queries, padded_rows * query_bytes)
        clear(outputs, padded_rows * round_up(4 * head_size, 4 * panel_lanes()))
        for row in range(padded_rows):
            place = min(row, num_rows - 1)
            forget_row(statistics + 8 * row)
            write_i32(limits + 4 * row, position + place // group + 1)
            write_f32(scales + 4 * row, np.float32(0.0))
        for row in range(0, num_rows, rows):
            load_queries(q, q_stride, group, scale, head_size, row, num_rows, queries, query_bytes,
                         scales)  # fmt: skip

    @device
    def visible_keys(limit, key, num_keys, window):
        """Keys of a block that a row sees, those before its window counted; 0 if there are none."""
        visible = min(max(limit - key, 0), num_keys)
        return visible if limit - window - key < visible else 0

    @device
    def weigh_rows(scores, key, num_keys, window, statistics, limits, work):
        """Scores of a tile's rows to weights; their factors go behind the scores.

        Each step is done for all rows before the next, so that none waits for its own result.
        """
        shrink = scores + TILE_ROWS * SCORE_BYTES
        gain, largest = shrink + 32, shrink + 64
        for i in range(rows):
            limit = read_i32(limits + 4 * i)
            visible = visible_keys(limit, key, num_keys, window)
            if limit - window > key:
                hide(scores + i * SCORE_BYTES, min(limit - window - key, visible))
            write_f32(largest + 4 * i, largest_score(scores + i * SCORE_BYTES, visible))
        for i in range(rows):
            visible = visible_keys(read_i32(limits + 4 * i), key, num_keys, window)
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
    def attend(segment, first_key, last_key, window, num_rows, head_size, keys, key_block_bytes,
               values, value_block_bytes, scratch, places):  # fmt: skip
        """All rows of a task over keys ``first_key``, where a page begins, to ``last_key``.

        ``keys`` and ``values`` say where the head's lie within a page.
        """
        statistics, limits, scales, queries, outputs, work = places
        query_bytes = round_up(4 * head_size, CACHE_LINE)
        output_bytes = round_up(4 * head_size, 4 * panel_lanes())
        shrink = scratch + TILE_ROWS * SCORE_BYTES
        for key in range(first_key, last_key, ATTENTION_KEYS):
            page = page_of(segment, key)
            key_at, value_at = page + keys, page + values
            following = page_of(segment, min(key + ATTENTION_KEYS, last_key - 1))
            block_keys = min(ATTENTION_KEYS, last_key - key)
            prepare(key_at, key_block_bytes, value_at, value_block_bytes, head_size, block_keys,
                    work)  # fmt: skip
            for row in range(0, num_rows, rows):
                num_keys = min(block_keys, read_i32(limits + 4 * (row + rows - 1)) - key)
                is_seen = read_i32(limits + 4 * row) - window - key < block_keys
                if num_keys > 0 and is_seen:
                    score(queries + row * query_bytes, query_bytes, scales + 4 * row, head_size,
                          key_at, following + keys, key_block_bytes, num_keys, scratch,
                          work)  # fmt: skip
                    weigh_rows(scratch, key, num_keys, window, statistics + 8 * row,
                               limits + 4 * row, work)  # fmt: skip
                    gather(scratch, num_keys, head_size, value_at, following + values,
                           value_block_bytes, outputs + row * output_bytes, output_bytes,
                           shrink, shrink + 32, work)  # fmt: skip

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
def write_partials(partials, group, num_heads, num_splits, head_size, num_rows, places):
    """Rows over some of the keys with their statistics, to be merged."""
    statistics, _limits, _scales, _queries, outputs, _work = places
    output_bytes = round_up(4 * head_size, 4 * panel_lanes())
    row_bytes = num_splits * partial_bytes(head_size, panel_lanes())
    for row in range(num_rows):
        at = partials + (row // group * num_heads + row % group) * row_bytes
        write_f32(at, read_f32(statistics + 8 * row))
        write_f32(at + 4, read_f32(statistics + 8 * row + 4))
        source, target = outputs + row * output_bytes, at + PARTIAL_HEAD_BYTES
        for i in range(0, output_bytes, 16):
            store(target + i, load_f32(source + i, f32_zeros_4()))


@device
def splits_of(segment, window):
    """The first part of the keys that a segment sees, and how many there are."""
    position, split_keys = read_i64(segment + POSITION), read_i64(segment + SPLIT_KEYS)
    num_tokens = read_i64(segment + NUM_TOKENS)
    first = first_seen(position, window) // split_keys
    return first, count_splits(position, num_tokens, split_keys, window)


def _kernel(start, attend, rows):
    def kernel(
        q, q_stride, y, y_stride, head_size, num_heads, num_kv_heads,
        key_offset, value_offset, key_head_bytes, value_head_bytes, key_block_bytes,
        value_block_bytes, segments, num_segments, num_tasks, window, scale, tokens_per_task,
        scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        group = num_heads // num_kv_heads
        work = scratch + thread * scratch_stride
        for task in tasks_of(counter, job, num_tasks):
            segment = find_segment(segments, num_segments, FIRST_ATTEND_TASK, task)
            task -= read_i64(segment + FIRST_ATTEND_TASK)
            first_split, num_splits = splits_of(segment, window)
            split_keys = read_i64(segment + SPLIT_KEYS)
            kv_head, split = task % num_kv_heads, task // num_kv_heads % num_splits
            token = task // num_kv_heads // num_splits * tokens_per_task
            task_tokens = min(tokens_per_task, read_i64(segment + NUM_TOKENS) - token)
            position = read_i64(segment + POSITION) + token
            row, num_rows = read_i64(segment + FIRST_ROW) + token, task_tokens * group
            head = kv_head * group
            places = row_places(work, round_up(num_rows, rows), head_size)
            start(q + row * q_stride + head * head_size * 4, q_stride, scale * LOG2_E, position,
                  group, head_size, num_rows, round_up(num_rows, rows), places)  # fmt: skip
            first_key = max(
                (first_split + split) * split_keys,
                first_seen(position, window) // PAGE_POSITIONS * PAGE_POSITIONS,
            )
            last_key = min((first_split + split + 1) * split_keys, position + task_tokens)
            attend(segment, first_key, last_key, window, num_rows, head_size,
                   key_offset + kv_head * key_head_bytes, key_block_bytes,
                   value_offset + kv_head * value_head_bytes, value_block_bytes, work,
                   places)  # fmt: skip
            if num_splits == 1:
                target = y + row * y_stride + head * head_size * 4
                write_rows(target, y_stride, group, head_size, num_rows, places)
            else:
                first = (token * num_heads + head) * num_splits + split
                target = read_i64(segment + PARTIALS)
                target += first * partial_bytes(head_size, panel_lanes())
                write_partials(target, group, num_heads, num_splits, head_size, num_rows,
                               places)  # fmt: skip

    return kernel


@device
def merge_head(partials, part_bytes, num_splits, head_size, y):
    """One head of one token, split by split; y serves as the sum."""
    largest = read_f32(partials)
    for split in range(1, num_splits):
        largest = max(largest, read_f32(partials + split * part_bytes))
    total, like = np.float32(0.0), f32_zeros_4()
    for split in range(num_splits):
        at = partials + split * part_bytes
        factor = power(read_f32(at) - largest)
        total += factor * read_f32(at + 4)
        factors = splat_f32(factor, like)
        for i in range(PARTIAL_HEAD_BYTES, part_bytes, 16):
            if split == 0:
                store(partials + i, fma(load_f32(at + i, like), factors, like))
            else:
                old = load_f32(partials + i, like)
                store(partials + i, fma(load_f32(at + i, like), factors, old))
    scale_row(partials + PARTIAL_HEAD_BYTES, np.float32(1.0) / total, head_size, y)


def merge_attention():
    """Join what tasks over parts of the keys have left; one token a task."""

    def kernel(
        y, y_stride, head_size, num_heads, segments, num_segments, num_tasks, window, counter,
        thread, job,
    ):  # fmt: skip
        part_bytes = partial_bytes(head_size, panel_lanes())
        for row in tasks_of(counter, job, num_tasks):
            segment = find_segment(segments, num_segments, FIRST_ROW, row)
            first_split, num_splits = splits_of(segment, window)
            if num_splits > 1:
                token = row - read_i64(segment + FIRST_ROW)
                position = read_i64(segment + POSITION) + token
                seen = position // read_i64(segment + SPLIT_KEYS) - first_split + 1
                for head in range(num_heads):
                    at = (token * num_heads + head) * num_splits * part_bytes
                    merge_head(read_i64(segment + PARTIALS) + at, part_bytes, seen, head_size,
                               y + row * y_stride + head * head_size * 4)  # fmt: skip

    return kernel
