"""Sizes and places in bytes that the host and the kernels must agree on, each written once.

Plain numbers and plain functions: the host calls them as they are, kernels inline them
(``device``). Neither numba nor NumPy is imported here. ``panel`` is the number of lanes of a
panel: positions of a block of the cache, f32 numbers to which output rows are padded.
"""

from __future__ import annotations

from edgellama.kernels_cpu.signatures import ATTENTION_ROWS
from edgellama.quant.formats import BLOCK_ORDERS

CACHE_LINE = 64
"""Bytes that cores exchange at a time."""
PANEL_VECTORS = 2
"""Vectors of a panel: output buffers are padded to it."""
GEMM_TOKENS = 6
"""Tokens of one tile in vector registers, of many tokens."""
TILE_REGISTER_TOKENS = 12
"""Tokens of one tile whose products are computed in tile registers."""
TOKEN_PADDING = TILE_REGISTER_TOKENS
"""Token buffers are padded to a multiple of it, and with it to whole tiles of both kinds."""
PACKED_ROWS = 6
"""Query rows of one register tile where keys and values are packed first."""
ATTENTION_KEYS = 128
"""Keys whose scores are held at once by the online softmax."""
CACHE_SCALE_BYTES = 2
"""Of a scale in the types of the KV cache that have scales."""
PARTIAL_HEAD_BYTES = 64
"""Of a partial result, before its numbers: the statistics of its weights."""
SELECTION_GROUP = 64
"""Logits that are compared at once where a token is chosen."""

PAGE_POSITIONS = ATTENTION_KEYS
"""Positions of a page of keys and values: as many as attention reads at a time."""

FIRST_ROW, NUM_TOKENS, POSITION, PAGES = 0, 8, 16, 24
"""Words of a segment's record: its first row among the step's, its tokens, the position of the
first of them, the address of its sequence's table of pages."""
FIRST_STORE_TASK, FIRST_ATTEND_TASK, SPLIT_KEYS, PARTIALS = 32, 40, 48, 56
"""The tasks of all segments before it, the keys of one part where keys are split, and where
partial results go."""
SEGMENT_BYTES = 64
ALL_KEYS = 1 << 40
"""More keys than any context has: the part of keys that are not split, the window of no window."""


CARD_CONTEXT, CARD_STREAM, CARD_STATUS, CARD_POPPED = 0, 8, 16, 24
"""Words of a graphics card's record: the driver's handles, what the last call returned, and room
for the handle of the context that was taken back."""
CARD_PUSH, CARD_COPY, CARD_LAUNCH, CARD_IS_READY, CARD_POP = 32, 40, 48, 56, 64
"""Addresses of functions of the driver: ``cuCtxPushCurrent``, ``cuMemcpyHtoDAsync``,
``cuLaunchKernel``, ``cuStreamQuery`` and ``cuCtxPopCurrent``."""
CARD_BYTES = 128
NOT_READY = 600
"""What ``cuStreamQuery`` returns while the card computes."""
LAUNCH_FUNCTION, LAUNCH_Y, LAUNCH_Z, LAUNCH_THREADS = 0, 8, 16, 24
LAUNCH_SHARED_BYTES, LAUNCH_ARGUMENTS, LAUNCH_AT_ONCE, LAUNCH_FIRST = 32, 40, 48, 56
"""Words of a launch's record: the kernel, its blocks in two directions, its threads in a block,
their shared memory, the address of the addresses of its arguments; the addresses of how many of
its blocks in a row are launched at once, and of the argument that tells the first of them."""
LAUNCH_BYTES = 64


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


# Activations as int8. A block is 32 numbers of one token with one scale; there are two layouts.

BLOCK = 32
"""Numbers that share a scale."""
SUPER_BLOCK = 8
"""Blocks of 32 weights in a super-block."""
HALVES = 2 * SUPER_BLOCK
"""Half blocks of 16 weights in a super-block."""

SCALE_AT, SUM_AT, STARTS_AT, MAGNITUDES_AT = 8, 12, 16, 20
"""Where parts of a record begin, in bytes for every lane of a vector; the quants come first."""
START_UNIT = 8
"""The smallest centre of a format; starts are stored for it."""
RECORD_BYTES = 4 * (MAGNITUDES_AT + 8)
"""Of each block of a token in records: seven vectors of four lanes."""
SUPER_SCALES_AT = 2 * HALVES
ORDERS_AT = SUPER_SCALES_AT + 4 * SUPER_BLOCK
"""Behind the records, for each super-block: sums of the quants of its half blocks in 16 bits, the
scales of its blocks, and then, for each of BLOCK_ORDERS, its quants, scales and starts."""
ORDER_SCALES_AT = SUPER_BLOCK * BLOCK
ORDER_STARTS_AT = ORDER_SCALES_AT + 8 * HALVES
ORDER_BYTES = ORDER_STARTS_AT + 8 * HALVES
SUPER_BLOCK_BYTES = ORDERS_AT + len(BLOCK_ORDERS) * ORDER_BYTES

SUM_BYTES, START_AT = 8, 4
"""In order, of each sum of a block or a half block: its bytes, and where its second part lies."""


def records_bytes(num_columns: int) -> int:
    """Bytes of one token as records, and as super-blocks where it is whole ones."""
    num_blocks = num_columns // BLOCK
    if num_blocks % SUPER_BLOCK:
        return num_blocks * RECORD_BYTES
    return num_blocks * (RECORD_BYTES + SUPER_BLOCK_BYTES // SUPER_BLOCK)


def scales_at(num_blocks: int) -> int:
    """In order, where the scale of the block behind so many of all tokens lies in its array."""
    return num_blocks * 4


def sums_at(num_blocks: int) -> int:
    """Where its sum lies."""
    return num_blocks * SUM_BYTES


def half_sums_at(num_blocks: int) -> int:
    """Where the sums of its two halves lie."""
    return 2 * num_blocks * SUM_BYTES


# Scratch of products of long steps.

PAIR_BYTES = 2 * BLOCK * 4
"""A block of a token's gate as f32, and the block that it is multiplied with."""
SPARE_BYTES = 4 * 1024
"""Room for moving one group of blocks from rows to lanes."""


def panel_scales_at(panel_rows: int, num_columns: int) -> int:
    """Where an expanded panel holds its scales: behind a byte a weight."""
    return panel_rows * num_columns


def panel_scale_bytes(panel_rows: int, num_groups: int) -> int:
    """Bytes of an expanded panel's scales, behind which come as many of minimums.

    A row has one of both, f32, for each of ``num_groups`` groups of its weights.
    """
    return panel_rows * num_groups * 4


def _panel_bytes(panel_rows: int, num_columns: int) -> int:
    """Bytes of an expanded panel of the format with the smallest groups."""
    scale_bytes = panel_scale_bytes(panel_rows, -(-num_columns // 16))
    return panel_scales_at(panel_rows, num_columns) + 2 * scale_bytes


ADDED_WEIGHTS, ADDED_ROW_BYTES, ADDED_FORMAT, ADDED_RANK = 0, 8, 16, 24
"""Words of a record of what is added to products: a matrix of floats, the number of its format
among FLOAT_FORMATS, its columns."""
ADDED_ROWS, ADDED_STRIDE = 32, 40
"""The f32 rows that it is multiplied with, one for each token of the step."""
ADDED_BYTES = 48
MAX_ADDED_RANK = 256
"""Columns of such a matrix at most."""


def gemm_scratch_bytes(panel_rows: int, widest: int, width: int) -> int:
    """Bytes of a thread's scratch for products of long steps.

    A panel of f32 or an expanded one, ``widest`` columns wide; or those of a block of gates and
    of as much beside them, ``width`` columns wide, and as many of what is added to them.
    """
    floats = panel_rows * widest * 4
    panels = max(_panel_bytes(panel_rows, widest), _panel_bytes(2 * BLOCK, width))
    added = 2 * BLOCK * 4 * MAX_ADDED_RANK
    return max(floats, panels + TILE_REGISTER_TOKENS * PAIR_BYTES + added) + SPARE_BYTES
