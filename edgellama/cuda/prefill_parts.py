"""Into how many tasks a segment of many tokens is cut, and how long their partial results are.

If the keys of a segment are split, each block leaves results for one part of the keys. Host and
kernels share these plain functions, as they share ``decode_layout`` for a few tokens.
"""

from __future__ import annotations

from edgellama.cuda.decode_layout import partial_bytes
from edgellama.cuda.layouts import TILE_ROWS, count_tiles
from edgellama.kernels_cpu.layouts import count_splits

TICKETS_OF_BLOCK = 8
"""Counters of a block: one for each warp, and for each pass over its rows."""


def prefill_tasks(position: int, num_tokens: int, group: int, split_keys: int, window: int) -> int:
    """Tasks of a segment: of each tile of rows, the parts of the segment's keys.

    Where there are several parts, a segment needs room for ``block_partial_bytes`` of each task,
    KV head and one of ``row_parts``, and ``TICKETS_OF_BLOCK`` counters (int32) of each tile, KV
    head and one of ``row_parts``.
    """
    parts = count_splits(position, num_tokens, split_keys, window)
    return count_tiles(num_tokens, group) * parts


def block_partial_bytes(head_size: int) -> int:
    """Bytes of what a block leaves for one part of its keys."""
    return TILE_ROWS * partial_bytes(head_size)
