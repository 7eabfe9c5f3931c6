"""Attention of a few tokens: a warp has some query heads of a KV head and a part of the keys.

The warp goes through the keys page by page. A lane stands for positions while scores are computed
and for elements while values are summed; in between, weights move to other lanes through shared
memory. All sums are f32. Where the keys of a token are split among warps, the last warp to finish
merges the results of all of them, in the order of the keys.
"""

from __future__ import annotations

from typing import Any

from edgellama.cuda.decode_layout import (
    head_parts,
    keys_at_once,
    partial_bytes,
    queries_bytes,
    weights_bytes,
)
from edgellama.cuda.kernels.memory import read_global_i64, write_global_i32
from edgellama.cuda.kernels.merge import (
    LOWEST,
    copy_rows,
    define_merge,
    inverses,
    write_partials,
)
from edgellama.cuda.kernels.row_registers import (
    f32_registers,
    hide_positions,
    largest_of_rows,
    powers_below,
    scaled_rows,
    sums_of_lanes,
    sums_of_rows,
)
from edgellama.cuda.kernels.scores import define_score, define_stage_queries
from edgellama.cuda.kernels.segments import find_segment, page_of
from edgellama.cuda.kernels.value_products import ValueUnit, store_weights
from edgellama.cuda.kernels.value_sums import (
    define_copy_scales,
    define_store_sums,
    define_sum_page,
)
from edgellama.cuda.kernels.warp import (
    block_x,
    block_y,
    block_z,
    memory_fence,
    shared_memory,
    take_ticket,
    warp_barrier,
)
from edgellama.cuda.layouts import (
    FIRST_ROW,
    FIRST_TASK,
    NUM_DECODE_SEGMENTS,
    PARTIALS,
    POSITION,
    SPLIT_KEYS,
    TICKETS,
)
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, count_splits, first_seen
from edgellama.kernels_cpu.simd.device import device


@device
def token_and_split(segment, task, window):
    """Which token of the segment a task is for, which of its parts of the keys, of how many."""
    position = read_global_i64(segment + POSITION)
    split_keys = read_global_i64(segment + SPLIT_KEYS)
    token = 0
    num_splits = count_splits(position, 1, split_keys, window)
    while task >= num_splits:
        task -= num_splits
        token += 1
        num_splits = count_splits(position + token, 1, split_keys, window)
    return token, task, num_splits


@device
def task_of(segments, task, window):
    """The segment of a task, its token there, which part of its keys, of how many."""
    count = read_global_i64(segments + NUM_DECODE_SEGMENTS)
    segment = find_segment(segments, 0, count, FIRST_TASK, task)
    task -= read_global_i64(segment + FIRST_TASK)
    token, split, num_splits = token_and_split(segment, task, window)
    return segment, task, token, split, num_splits


@device
def keys_of_split(position, split, split_keys, window, at_once):
    """The keys of a token's part: from a multiple of ``at_once`` on, to the last that it sees."""
    seen = first_seen(position, window)
    start = (seen // split_keys + split) * split_keys
    first_key = max(start, seen // at_once * at_once)
    return first_key, min(start + split_keys, position + 1)


def attend_few(key_kind: str, value_kind: str, rows: int) -> Any:
    """softmax(q k^T scale) v for ``rows`` query heads of a KV head at a time."""
    stage_queries, score = define_stage_queries(rows), define_score(key_kind, rows)
    unit = ValueUnit(value_kind, rows)
    copy_scales, sum_page = define_copy_scales(value_kind), define_sum_page(unit)
    store_sums, merge = define_store_sums(unit), define_merge(rows)
    num_outputs, at_once = rows * unit.elements, keys_at_once(rows)

    def kernel(
        q, q_stride, y, y_stride, head_size, num_heads, num_kv_heads, key_offset, value_offset,
        key_head_bytes, value_head_bytes, segments, window, scale, warp,
    ):  # fmt: skip
        kv_head, part = block_y(warp), block_z(warp)
        segment, _, token, split, _ = task_of(segments, block_x(warp), window)
        position = read_global_i64(segment + POSITION) + token
        row = read_global_i64(segment + FIRST_ROW) + token
        split_keys = read_global_i64(segment + SPLIT_KEYS)
        first_key, end_key = keys_of_split(position, split, split_keys, window, at_once)
        seen = first_seen(position, window)
        following = page_of(segment, first_key)

        group = num_heads // num_kv_heads
        head = kv_head * group + part * rows
        num_rows = min(rows, group - part * rows)
        queries = shared_memory(warp)
        weights = queries + queries_bytes(head_size, rows)
        value_scales = weights + weights_bytes(rows)
        source = q + row * q_stride + head * head_size * 4
        stage_queries(source, num_rows, head_size, scale, queries)

        largest, total = f32_registers(rows, LOWEST), f32_registers(rows, 0.0)
        outputs = f32_registers(num_outputs, 0.0)
        for key in range(first_key, end_key, at_once):
            page, begin = following, key % PAGE_POSITIONS
            following = page_of(segment, min(key + at_once, end_key - 1))
            first, end = max(seen - key, 0), min(end_key - key, at_once)
            values = page + value_offset + kv_head * value_head_bytes
            warp_barrier()  # What lies in shared memory of the keys before has been read.
            if begin == 0 or key == first_key:
                copy_scales(values, head_size, value_scales)
            keys = page + key_offset + kv_head * key_head_bytes
            scores = score(keys, head_size, begin, begin + end, queries)
            scores = hide_positions(scores, largest, first, end)
            top = largest_of_rows(scores, largest)
            shrink = powers_below(largest, top)
            largest = top
            scores = powers_below(scores, top)
            total = sums_of_rows(scores, scaled_rows(total, shrink))
            outputs = scaled_rows(outputs, shrink)
            store_weights(scores, largest, weights)
            warp_barrier()
            outputs = sum_page(outputs, values, head_size, begin + first, begin + end,
                               weights - 4 * begin, value_scales)  # fmt: skip
        total = sums_of_lanes(total, 1)

        warp_barrier()
        # Asked anew: no registers hold this meanwhile.
        segment, task, token, split, num_splits = task_of(segments, block_x(warp), window)
        row = read_global_i64(segment + FIRST_ROW) + token
        target = y + row * y_stride + head * head_size * 4
        if num_splits == 1:
            store_sums(scaled_rows(outputs, inverses(total)), head_size, queries)
            warp_barrier()
            copy_rows(queries, num_rows, head_size, target, 4 * head_size)
        else:
            store_sums(outputs, head_size, queries)
            warp_barrier()
            part_bytes = partial_bytes(head_size)
            split_bytes = num_heads * part_bytes
            partials = read_global_i64(segment + PARTIALS) + head * part_bytes
            partials += (task - split) * split_bytes
            write_partials(queries, largest, total, num_rows, head_size,
                           partials + split * split_bytes)  # fmt: skip
            ticket = (token * num_kv_heads + kv_head) * head_parts(group) + part
            ticket = read_global_i64(segment + TICKETS) + 4 * ticket
            warp_barrier()
            memory_fence()
            if take_ticket(ticket) == num_splits - 1:
                memory_fence()
                warp_barrier()  # One lane took the ticket; the others see what it saw.
                merge(partials, num_splits, split_bytes, num_rows, head_size, queries)
                warp_barrier()
                copy_rows(queries, num_rows, head_size, target, 4 * head_size)
                write_global_i32(ticket, 0)

    return kernel
