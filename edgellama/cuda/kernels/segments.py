"""Reads the table of a step's segments, in which ``layouts`` defines the place of each number.

Kernels use it to find the segment of a row or of a block, and the pages of the segment's sequence.
The host writes the table, in ``engine.card.table``.
"""

from __future__ import annotations

from edgellama.cuda.kernels.lanes import lane_number, select, widened
from edgellama.cuda.kernels.memory import load_global_i64, read_global_i64
from edgellama.cuda.kernels.warp import largest_integer_of_lanes
from edgellama.cuda.layouts import (
    FIRST_ROW,
    HEADER_BYTES,
    NUM_TOKENS,
    PAGES,
    SEGMENT_BYTES,
    WARP,
)
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.simd.device import device


@device
def find_segment(segments, first, last, word, number):
    """The last of segments ``first`` to ``last`` - 1 whose growing ``word`` is at most ``number``.

    Each lane looks at another segment, so that the warp waits for memory once, not for each.
    """
    records, found = segments + HEADER_BYTES + word, first
    for base in range(first, last, WARP):
        index = lane_number() + base
        inside = select(index < last, index, last - 1)
        words = load_global_i64(widened(inside * SEGMENT_BYTES) + records)
        found = max(found, largest_integer_of_lanes(select(words <= number, inside, first)))
    return segments + HEADER_BYTES + found * SEGMENT_BYTES


@device
def segment_of_row(segments, count, row):
    """The one of ``count`` segments that a row of the step belongs to; they come in any order."""
    found = 0
    for base in range(0, count, WARP):
        index = lane_number() + base
        inside = select(index < count, index, count - 1)
        record = widened(inside * SEGMENT_BYTES) + (segments + HEADER_BYTES)
        first = load_global_i64(record + FIRST_ROW)
        end = first + load_global_i64(record + NUM_TOKENS)
        held = select((first <= row) & (end > row), inside, 0)
        found = max(found, largest_integer_of_lanes(held))
    return segments + HEADER_BYTES + found * SEGMENT_BYTES


@device
def page_of(segment, position):
    """The address of the page that holds a position of the segment's sequence."""
    return read_global_i64(read_global_i64(segment + PAGES) + position // PAGE_POSITIONS * 8)
