"""Attention of many tokens on tensor cores: 64 query rows over tiles of keys, with sums in f32.

A block is four warps of 16 rows, which share each tile of keys and values in shared memory. A
tile's values arrive while its scores are computed, and the next tile's keys while values are
summed. Softmax is online, in powers of two. A block visits only tiles that one of its rows sees.
Where few blocks would run, each block gets a part of the keys, as ``tile_parts`` describes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgellama.cuda.decode_layout import PARTIAL_NUMBERS_AT, partial_bytes
from edgellama.cuda.kernels.memory import read_global_i64
from edgellama.cuda.kernels.merge import inverses
from edgellama.cuda.kernels.tensor_attention import (
    gather,
    pack,
    queries_from_shared,
    results_to_shared,
    score,
    write_pairs,
)
from edgellama.cuda.kernels.tile_copies import copies
from edgellama.cuda.kernels.tile_pages import page_in, places
from edgellama.cuda.kernels.tile_parts import (
    keys_of_part,
    leave_columns,
    merge_parts,
    parts_of,
    place_of,
    tile_of,
)
from edgellama.cuda.kernels.tile_rows import cleared, queries_to_shared, row_tokens, shifted
from edgellama.cuda.kernels.tile_softmax import hide, row_sums, shrink, weigh
from edgellama.cuda.kernels.warp import (
    block_barrier,
    block_x,
    block_y,
    block_z,
    shared_memory,
    warp_barrier,
    warp_number,
)
from edgellama.cuda.layouts import FIRST_ROW, PAGES, POSITION, TILE_ROWS, WARP
from edgellama.cuda.prefill_tiles import OUTPUT_ROWS, WARP_ROWS, TensorTile
from edgellama.kernels_cpu.simd.device import device

LOWEST = np.float32(-1e30)
"""The largest score before any key was seen: finite, so that differences to it are numbers."""
FAR = 1 << 29
"""More keys than a lane's i32 needs to tell from no window."""


def attend_many(key_kind: str, value_kind: str, width: int) -> Any:
    """softmax(q k^T scale) v over all keys up to each token, for cards since Ampere."""
    return _attention(TensorTile((key_kind, value_kind), width))


def attend_many_turing(key_kind: str, value_kind: str, width: int) -> Any:
    """The same where tiles come through registers, as Turing's cards need it."""
    return _attention(TensorTile((key_kind, value_kind), width, is_turing=True))


def _attention(tile: TensorTile) -> Any:
    (key_kind, value_kind), num_keys = tile.kinds, tile.num_keys
    values_at, queries_at, output_stride = tile.values_at, tile.queries_at, tile.output_stride
    keys_of, values_of = places(key_kind, is_keys=True), places(value_kind, is_keys=False)
    fetch_keys, settle_keys = copies(key_kind, tile, is_keys=True)
    fetch_values, settle_values = copies(value_kind, tile, is_keys=False)
    store_queries, load_queries = queries_to_shared(tile), queries_from_shared(tile)
    score_keys, hide_keys, weigh_scores = score(tile), hide(tile), weigh(tile)
    gather_values, (store_first, store_others) = gather(tile), results_to_shared(tile)
    shrink_results, total_sums, pack_weights = shrink(tile), row_sums(tile), pack(tile)
    tokens_of, leave, merge = row_tokens(tile), leave_columns(tile), merge_parts()
    column, outputs = cleared(tile.rows.count), cleared(len(tile.result_rows))

    @device
    def write_rows(y, y_stride, head_size, group, first_row, num_rows, shared):
        """Up to eight rows of a warp's results from its part of shared memory to their places.

        These are of ``group`` heads side by side for each token, ``y_stride`` apart.
        """
        warp_barrier()
        token, head = first_row // group, first_row % group
        for row in range(min(num_rows, OUTPUT_ROWS)):
            target = y + token * y_stride + head * head_size * 4
            for pair in range(0, head_size // 2, WARP):
                write_pairs(shared + row * output_stride + pair * 8, target + pair * 8,
                            head_size // 2 - pair)  # fmt: skip
            head += 1
            if head == group:
                token, head = token + 1, 0
        warp_barrier()

    def kernel(
        q, q_stride, y, y_stride, head_size, num_heads, num_kv_heads, key_offset, value_offset,
        key_head_bytes, value_head_bytes, segments, window, scale, first_block, warp,
    ):  # fmt: skip
        group, kv_head, task = num_heads // num_kv_heads, block_y(warp), block_x(warp) + first_block
        segment, token, num_tokens, part = tile_of(segments, group, task, window)
        first, last = keys_of_part(segment, token, num_tokens, part, window, num_keys)
        if first >= last:
            return
        position = read_global_i64(segment + POSITION) + token
        first_row = block_z(warp) * TILE_ROWS
        num_rows = min(num_tokens * group - first_row, TILE_ROWS)
        row = read_global_i64(segment + FIRST_ROW) + token
        head_at = kv_head * group * head_size * 4
        key_head = key_offset + kv_head * key_head_bytes
        value_head = value_offset + kv_head * value_head_bytes
        shared, own = shared_memory(warp), warp_number(warp)

        pages = read_global_i64(segment + PAGES)
        page = page_in(pages, first)
        at, scales, row_bytes, chunks = keys_of(page + key_head, head_size, first)
        keys = fetch_keys(at, scales, row_bytes, chunks, last - first, shared, own)
        store_queries(q + row * q_stride + head_at, q_stride, head_size, group, first_row,
                      num_rows, shared + queries_at, own)  # fmt: skip
        warp_barrier()
        queries = load_queries(shared + queries_at, own)
        tokens = tokens_of(group, first_row, num_rows, own)
        seen = min(window, FAR)
        largest, sums = column(LOWEST), column(np.float32(0.0))
        results = outputs(np.float32(0.0))
        for key in range(first, last, num_keys):
            settle_keys(keys, at, scales, row_bytes, chunks, last - key, shared, own)
            block_barrier(warp)
            at, scales, row_bytes, chunks = values_of(page + value_head, head_size, key)
            values = fetch_values(at, scales, row_bytes, chunks, last - key, shared + values_at,
                                  own)  # fmt: skip
            page = page_in(pages, min(key + num_keys, last - 1))
            scores = score_keys(queries, shared, own)
            if key + num_keys > position + 1 or key < position + num_tokens - seen:
                ends = shifted(tokens, position - key)
                scores = hide_keys(scores, shifted(ends, 1 - seen), ends)
            settle_values(values, at, scales, row_bytes, chunks, last - key, shared + values_at,
                          own)  # fmt: skip
            block_barrier(warp)
            at, scales, row_bytes, chunks = keys_of(page + key_head, head_size, key + num_keys)
            if key + num_keys < last:
                keys = fetch_keys(at, scales, row_bytes, chunks, last - key - num_keys, shared,
                                  own)  # fmt: skip
            weights, largest, sums, factors = weigh_scores(scores, largest, sums, scale)
            results = shrink_results(results, factors)
            results = gather_values(results, pack_weights(weights), shared + values_at)
        block_barrier(warp)
        # Asked anew: no registers hold this meanwhile.
        segment, token, num_tokens, part = tile_of(segments, group, task, window)
        sums, num_parts = total_sums(sums), parts_of(segment, token, num_tokens, window)
        shared, own_row = shared + own * OUTPUT_ROWS * output_stride, own * WARP_ROWS
        num_rows = min(num_tokens * group - first_row, TILE_ROWS) - own_row
        y += (read_global_i64(segment + FIRST_ROW) + token) * y_stride + head_at
        if num_parts == 1:
            results = shrink_results(results, inverses(sums))
            target, stride, heads, start = y, y_stride, group, first_row + own_row
            parts, part_bytes, ticket = 0, 0, 0
        else:
            target, parts, part_bytes, ticket = place_of(
                segment, token, group, part, window, num_kv_heads, kv_head, block_z(warp),
                head_size,
            )  # fmt: skip
            stride, heads, start = partial_bytes(head_size), 1, own_row
            leave(largest, sums, scale, target + own_row * stride, stride, num_rows)
            target += PARTIAL_NUMBERS_AT
        store_first(results, shared)
        write_rows(target, stride, head_size, heads, start, num_rows, shared)
        store_others(results, shared)
        write_rows(target, stride, head_size, heads, start + OUTPUT_ROWS, num_rows - OUTPUT_ROWS,
                   shared)  # fmt: skip
        if num_parts > 1 and num_rows > 0:
            merge(parts + own_row * stride, num_parts, part_bytes, ticket + 4 * own, y, y_stride,
                  head_size, group, first_row + own_row, min(num_rows, WARP_ROWS),
                  shared)  # fmt: skip

    return kernel
