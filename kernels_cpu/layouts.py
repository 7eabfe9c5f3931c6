"""Sizes and places in bytes that the host and the kernels must agree on, each written once.

Plain numbers and plain functions: the host calls them as they are, kernels inline them
(``device``). Neither numba nor NumPy is imported here. ``panel`` is the number of lanes of a
panel: positions of a block of the cache, f32 numbers to which output rows are padded.
"""

from __future__ import annotations

from edgellama.kernels_cpu.signatures import (
    ATTENTION_KEYS,
    ATTENTION_ROWS,
    CACHE_SCALE_BYTES,
    GEMM_TOKENS,
    PAIR_BYTES,
    PARTIAL_HEAD_BYTES,
    SPARE_BYTES,
)

CACHE_LINE = 64
"""Bytes that cores exchange at a time."""
SELECTION_GROUP = 64
"""Logits that are compared at once where a token is chosen."""

PAGE_POSITIONS = ATTENTION_KEYS
"""Positions of a page of keys and values: as many as attention reads at a time."""

FIRST_ROW, NUM_TOKENS, POSITION, PAGES = 0, 8, 16, 24
"""Words of a segment's record: its first row among the step's, its tokens, the position of the
first of them, the address of its sequence's table of pages."""
FIRST_STORE_TASK, FIRST_ATTEND_TASK, SPLIT_KEYS, PARTIALS = 32, 40, 48, 56
"""The tasks of all segments before it, the keys of one part where keys are split, and where
partial results go. A last record, behind all segments, holds the totals."""
SEGMENT_BYTES = 64
ALL_KEYS = 1 << 40
"""More keys than any context has: the part of keys that are not split, the window of no window."""


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return (number + multiple - 1) // multiple * multiple


def first_seen(position: int, window: int) -> int:
    """The first position that the token at ``position`` attends to."""
    return max(position - window + 1, 0)


def count_splits(position: int, num_tokens: int, split_keys: int, window: int) -> int:
    """Parts of the keys that ``num_tokens`` tokens from ``position`` on see."""
    return (
        (position + num_tokens - 1) // split_keys - first_seen(position, window) // split_keys + 1
    )


def scales_bytes(head_size: int, scale_elements: int, panel: int) -> int:
    """Bytes of the scales of a block of the cache; ``scale_elements`` 0 for types without."""
    if scale_elements == 0:
        return 0
    return round_up(head_size, scale_elements) // scale_elements * CACHE_SCALE_BYTES * panel


def value_row_bytes(head_size: int, bits: int, panel: int) -> int:
    """Bytes of one position's values in a block, without its scales."""
    return round_up(head_size, panel) * bits // 8


def key_block_bytes(head_size: int, bits: int, scale_elements: int, panel: int) -> int:
    """Bytes of one head's keys at the positions of a block."""
    return scales_bytes(head_size, scale_elements, panel) + head_size * bits // 8 * panel


def value_block_bytes(head_size: int, bits: int, scale_elements: int, panel: int) -> int:
    """Bytes of one head's values at the positions of a block."""
    row_bytes = value_row_bytes(head_size, bits, panel)
    return scales_bytes(head_size, scale_elements, panel) + row_bytes * panel


def partial_bytes(head_size: int, panel: int) -> int:
    """Bytes of what one head of one token leaves for one part of its keys."""
    return PARTIAL_HEAD_BYTES + round_up(4 * head_size, 4 * panel)


SCORE_BYTES = 4 * ATTENTION_KEYS
WEIGHT_BYTES = 2 * ATTENTION_KEYS
TILE_ROWS = max(ATTENTION_ROWS)
TILE_BYTES = TILE_ROWS * SCORE_BYTES + 128
"""Scores of a tile's rows, then the factors ``shrink`` and ``gain`` of up to eight."""


def attention_places(num_rows: int, head_size: int, panel: int) -> tuple[int, int, int, int, int]:
    """Where limits, query scales, queries, outputs and a method's own memory lie in the scratch.

    Counted from its start; the tile comes first, then the rows' statistics.
    """
    limits = TILE_BYTES + round_up(8 * num_rows, CACHE_LINE)
    scales = limits + round_up(4 * num_rows, CACHE_LINE)
    queries = scales + round_up(4 * num_rows, CACHE_LINE)
    outputs = queries + num_rows * round_up(4 * head_size, CACHE_LINE)
    own = outputs + num_rows * round_up(4 * head_size, 4 * panel)
    return limits, scales, queries, outputs, round_up(own, CACHE_LINE)


def packed_places(head_size: int) -> tuple[int, int, int, int]:
    """Where packed attention's own memory holds scales of keys and values, and both packed.

    Room for the weights of a tile's rows comes first.
    """
    key_scales = TILE_ROWS * WEIGHT_BYTES
    value_scales = key_scales + 4 * ATTENTION_KEYS
    keys = value_scales + round_up(4 * head_size, 2 * CACHE_LINE)
    return key_scales, value_scales, keys, keys + round_up(head_size, 2) * 2 * ATTENTION_KEYS


def attention_scratch_bytes(num_rows: int, head_size: int, panel: int) -> int:
    """Bytes of a thread's scratch for attention tasks of up to ``num_rows`` query rows."""
    rows = round_up(num_rows, TILE_ROWS) + TILE_ROWS
    own = attention_places(rows, head_size, panel)[-1]
    values = packed_places(head_size)[-1]
    packed = values + round_up(head_size, panel) * 2 * ATTENTION_KEYS
    return own + max(packed, TILE_ROWS * SCORE_BYTES) + 1024


def expanded_panel_bytes(panel_rows: int, num_columns: int) -> int:
    """Bytes of a panel of expanded rows: a byte a weight, two f32 for 16 of them at most."""
    return panel_rows * num_columns * 3 // 2


def gemm_scratch_bytes(panel_rows: int, widest: int, width: int) -> int:
    """Bytes of a thread's scratch for products of long steps.

    A panel of f32 or an expanded one, ``widest`` columns wide; or those of a block of gates and
    of as much beside them, ``width`` columns wide.
    """
    floats = panel_rows * widest * 4
    panels = max(expanded_panel_bytes(panel_rows, widest), expanded_panel_bytes(2 * 32, width))
    return max(floats, panels + GEMM_TOKENS * PAIR_BYTES) + SPARE_BYTES
