"""Where numbers lie in the card's pages, in bytes that the host and the kernels agree on.

A page holds 128 positions of one sequence. It has one layer after another; a layer has the keys of
all heads and then the values of all heads, in chunks of 16 bytes, which is what one lane loads at
once. The host calls these functions as they are and the kernels inline them, so neither numba nor
NumPy is imported. ``bits`` is the size of a number; ``scale_elements`` is 0 without scales.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES, PAGE_POSITIONS

CHUNK_BYTES = 16
"""What a lane loads at once: 4 numbers of f32, 8 of f16 and bf16, 16 of q8_0, 32 of q4_0."""
NIBBLE_DISTANCE = 16
"""In a chunk of q4_0, byte ``j`` holds element ``j`` low and element ``j + 16`` high."""
ZERO_NIBBLE = 8
"""The number zero of q4_0."""
WARP = 32
"""Lanes that run together."""
MAX_HEAD_SIZE = 256
"""Of what the kernels keep in registers."""

NUM_SEGMENTS, NUM_DECODE_SEGMENTS = 0, 8
"""Words of the header of a table of segments. Those of few tokens come first."""
HEADER_BYTES = 64
FIRST_ROW, NUM_TOKENS, POSITION, PAGES = 0, 8, 16, 24
"""Words of a segment's record: its first row among the step's, its tokens, the position of the
first of them, the card's address of its sequence's table of addresses of pages."""
FIRST_TASK, SPLIT_KEYS, PARTIALS, TICKETS = 32, 40, 48, 56
"""The tasks of all segments before it of the kernel that attends it, the keys of one part where
keys are split, where partial results go, and counters of what has left its results, zero before
and after every launch; see ``decode_layout.decode_tasks`` and ``prefill_parts.prefill_tasks``."""
SEGMENT_BYTES = 64
MAX_DECODE_TOKENS = 8
"""A segment of more tokens is attended by tiles of query rows."""
TILE_ROWS = 64
"""Query rows of such a tile at most: the query heads of a KV head for as many tokens as fit."""


def num_chunks(head_size: int, bits: int) -> int:
    """Chunks that hold a head's numbers at one position."""
    return (head_size * bits + 8 * CHUNK_BYTES - 1) // (8 * CHUNK_BYTES)


def num_groups(head_size: int, scale_elements: int) -> int:
    """Scales of a head at one position."""
    if scale_elements == 0:
        return 0
    return (head_size + scale_elements - 1) // scale_elements


def scales_at(head_size: int, bits: int) -> int:
    """Where a head's scales begin, of keys and of values: behind the numbers of all positions."""
    return num_chunks(head_size, bits) * CHUNK_BYTES * PAGE_POSITIONS


def head_bytes(head_size: int, bits: int, scale_elements: int) -> int:
    """Bytes of one head's keys, or values, in a page."""
    scales = num_groups(head_size, scale_elements) * CACHE_SCALE_BYTES * PAGE_POSITIONS
    return scales_at(head_size, bits) + scales


def key_chunk_at(chunk: int, place: int) -> int:
    """Where a chunk of the key at a place of the page lies among the head's keys.

    Neighbouring positions lie side by side.
    """
    return (chunk * PAGE_POSITIONS + place) * CHUNK_BYTES


def key_scale_at(head_size: int, bits: int, group: int, place: int) -> int:
    """Where the scale of a group of elements lies, for the key at a place of the page."""
    return scales_at(head_size, bits) + (group * PAGE_POSITIONS + place) * CACHE_SCALE_BYTES


def value_chunk_at(head_size: int, bits: int, chunk: int, place: int) -> int:
    """Where a chunk of the value at a place of the page lies among the head's values.

    Neighbouring chunks lie side by side.
    """
    return (place * num_chunks(head_size, bits) + chunk) * CHUNK_BYTES


def value_scale_at(head_size: int, bits: int, scale_elements: int, group: int, place: int) -> int:
    """Where the scale of a group of elements lies, for the value at a place of the page."""
    groups = num_groups(head_size, scale_elements)
    return scales_at(head_size, bits) + (place * groups + group) * CACHE_SCALE_BYTES


def tile_tokens(group: int) -> int:
    """Tokens of a tile of query rows, for ``group`` query heads per KV head."""
    return max(TILE_ROWS // group, 1)


def row_parts(group: int) -> int:
    """Blocks of a tile, more than one if a token has more rows; the grid's third dimension."""
    return (group + TILE_ROWS - 1) // TILE_ROWS


def count_tiles(num_tokens: int, group: int) -> int:
    """Tasks of a segment that tiles of query rows attend."""
    return (num_tokens + tile_tokens(group) - 1) // tile_tokens(group)
