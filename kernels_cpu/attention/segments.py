"""Reads the table of a step's segments; ``layouts`` says where its words lie.

A segment is the tokens of one sequence in a step. The tasks of an op are numbered through all
segments, and functions here search the table for the segment that a task belongs to. The engine
writes the table.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, PAGES, SEGMENT_BYTES
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import read_i64


@device
def find_segment(segments, num_segments, word, number):
    """The last segment whose ``word``, which grows from one to the next, is at most ``number``."""
    low, high = 0, num_segments
    while high - low > 1:
        middle = (low + high) // 2
        if read_i64(segments + middle * SEGMENT_BYTES + word) <= number:
            low = middle
        else:
            high = middle
    return segments + low * SEGMENT_BYTES


@device
def page_of(segment, position):
    """Address of the page that holds a position of the segment's sequence."""
    return read_i64(read_i64(segment + PAGES) + position // PAGE_POSITIONS * 8)
