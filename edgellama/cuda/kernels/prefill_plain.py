"""Attention of many tokens in f32, without tensor cores: for f32 caches, and cards that lack them.

A block is four warps with rows of their own. It loads the keys of a tile into shared memory; once
all warps have computed their scores, the tile's values take the place of the keys. Softmax is
online, in powers of two. The arithmetic within a tile is left to ``plain_attention``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgellama.cuda.decode_layout import PARTIAL_NUMBERS_AT, partial_bytes
from edgellama.cuda.kernels.memory import read_global_i64
from edgellama.cuda.kernels.merge import inverses
from edgellama.cuda.kernels.plain_attention import (
    FOUR,
    add_products,
    add_values,
    weights_to_shared,
    write_results,
)
from edgellama.cuda.kernels.prefill import FAR, LOWEST
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
from edgellama.cuda.layouts import FIRST_ROW, PAGES, POSITION, TILE_ROWS
from edgellama.cuda.prefill_tiles import PlainTile
from edgellama.kernels_cpu.simd.device import device


def attend_many_plain(key_kind: str, value_kind: str, width: int) -> Any:
    """softmax(q k^T scale) v over all keys up to each token, for every type and card."""
    tile = PlainTile((key_kind, value_kind), width)
    num_keys, lane_keys = tile.num_keys, len(tile.score_places)
    weights_at, queries_at = tile.weights_at, tile.queries_at
    block_rows, warp_weights = tile.block_rows, tile.warp_weights_bytes
    warp_queries, row_stride = tile.warp_rows * tile.query_stride, tile.row_stride
    load_keys = _loading(key_kind, tile, is_keys=True)
    load_values = _loading(value_kind, tile, is_keys=False)
    store_queries, tokens_of = queries_to_shared(tile), row_tokens(tile)
    score_four, hide_keys, weigh_scores = add_products(tile), hide(tile), weigh(tile)
    store_weights, gather_four, write_rows = (
        weights_to_shared(tile), add_values(tile), write_results(tile),
    )  # fmt: skip
    shrink_results, total_sums = shrink(tile), row_sums(tile)
    leave, merge, warp_rows = leave_columns(tile), merge_parts(), tile.warp_rows
    column, outputs, scores_of = (
        cleared(tile.rows.count), cleared(len(tile.result_rows)), cleared(lane_keys),
    )  # fmt: skip

    @device
    def score(queries, shared):
        scores = scores_of(np.float32(0.0))
        for element in range(0, 4 * width, 4 * FOUR):
            scores = score_four(scores, queries + element, shared + element)
        return scores

    @device
    def gather(results, weights, shared):
        for key in range(0, num_keys, FOUR):
            results = gather_four(results, weights + 4 * key, shared + key * row_stride)
        return results

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
        pages, head_at = read_global_i64(segment + PAGES), kv_head * group * head_size * 4
        q += (read_global_i64(segment + FIRST_ROW) + token) * q_stride + head_at
        shared, own = shared_memory(warp), warp_number(warp)
        weights_of_warp = shared + weights_at + own * warp_weights
        queries = shared + queries_at + own * warp_queries

        seen, start = min(window, FAR), block_z(warp) * TILE_ROWS
        end_row = min(start + TILE_ROWS, num_tokens * group)
        for first_row in range(start, end_row, block_rows):
            num_rows = min(end_row - first_row, block_rows)
            store_queries(q, q_stride, head_size, group, first_row, num_rows, shared + queries_at,
                          own)  # fmt: skip
            warp_barrier()
            tokens = tokens_of(group, first_row, num_rows, own)
            largest, sums = column(LOWEST), column(np.float32(0.0))
            results = outputs(np.float32(0.0))
            for key in range(first, last, num_keys):
                page = page_in(pages, key)
                load_keys(page + key_offset + kv_head * key_head_bytes, head_size, key, last,
                          shared, warp)  # fmt: skip
                scores = score(queries, shared)
                if key + num_keys > position + 1 or key < position + num_tokens - seen:
                    ends = shifted(tokens, position - key)
                    scores = hide_keys(scores, shifted(ends, 1 - seen), ends)
                weights, largest, sums, factors = weigh_scores(scores, largest, sums, scale)
                store_weights(weights, weights_of_warp)
                load_values(page + value_offset + kv_head * value_head_bytes, head_size, key,
                            last, shared, warp)  # fmt: skip
                results = gather(shrink_results(results, factors), weights_of_warp, shared)
            sums = total_sums(sums)
            # Asked anew, as behind the last pass: no registers hold this meanwhile.
            segment, token, count, part = tile_of(segments, group, task, window)
            if parts_of(segment, token, count, window) == 1:
                row = read_global_i64(segment + FIRST_ROW) + token
                write_rows(shrink_results(results, inverses(sums)), y + row * y_stride + head_at,
                           y_stride, head_size, group, first_row, num_rows, own)  # fmt: skip
            else:
                target, _, _, _ = place_of(
                    segment, token, group, part, window, num_kv_heads, kv_head, block_z(warp),
                    head_size,
                )  # fmt: skip
                stride, own_row = partial_bytes(head_size), own * warp_rows
                target += (first_row - start) * stride
                leave(largest, sums, scale, target + own_row * stride, stride, num_rows - own_row)
                write_rows(results, target + PARTIAL_NUMBERS_AT, stride, head_size, 1, 0, num_rows,
                           own)  # fmt: skip
        segment, token, count, part = tile_of(segments, group, task, window)
        num_parts = parts_of(segment, token, count, window)
        if num_parts > 1:
            y += (read_global_i64(segment + FIRST_ROW) + token) * y_stride + head_at
            num_rows = min(count * group - start, TILE_ROWS)
            _, parts, part_bytes, ticket = place_of(
                segment, token, group, part, window, num_kv_heads, kv_head, block_z(warp), head_size
            )
            for row in range(own * warp_rows, num_rows, block_rows):
                merge(parts + row * partial_bytes(head_size), num_parts, part_bytes,
                      ticket + 4 * (row // warp_rows), y, y_stride, head_size, group, start + row,
                      min(num_rows - row, warp_rows), queries)  # fmt: skip

    return kernel


def _loading(kind: str, tile: PlainTile, *, is_keys: bool) -> Any:
    """Device function: a tile's keys, or values, in place of what all warps are done with."""
    places_of, (fetch, settle) = places(kind, is_keys=is_keys), copies(kind, tile, is_keys=is_keys)

    @device
    def load(head, head_size, key, last, shared, warp):
        at, scales, row_bytes, chunks = places_of(head, head_size, key)
        block_barrier(warp)
        own = warp_number(warp)
        asked = fetch(at, scales, row_bytes, chunks, last - key, shared, own)
        settle(asked, at, scales, row_bytes, chunks, last - key, shared, own)
        block_barrier(warp)

    return load
