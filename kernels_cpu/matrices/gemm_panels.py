"""Panels for ``gemm``: a few vectors of rows, expanded from blocks once for all tokens of a step.

Each 32-bit lane holds four consecutive quants of one row. Each row and group has one scale and one
minimum in f32. If a matrix ends within a panel, the lanes behind its last row keep old numbers,
whose results nobody reads.
"""

from __future__ import annotations

from edgellama.kernels_cpu.formats.panel_code import (
    define_centred_scales,
    for_each_half,
    minimum_at,
    scale_at,
)
from edgellama.kernels_cpu.layouts import PANEL_VECTORS, SUPER_BLOCK
from edgellama.kernels_cpu.matrices.prefetching import define_ask_in_panel
from edgellama.kernels_cpu.simd.byte_tiles import define_as_panel_bytes
from edgellama.kernels_cpu.simd.compiler_barriers import HIDDEN
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.rows_in_lanes import row_steps, store_first
from edgellama.kernels_cpu.simd.vectors import lane_count, store


@device
def put(address, vector, is_one_row):
    """A vector, or its first lane, which is like all others where one row fills them."""
    if is_one_row:
        store_first(address, vector)
    else:
        store(address, vector)


def _define_put_half(code):
    """A half block's quants in the panel of their segment, a vector every ``step`` bytes."""
    as_panel_bytes = define_as_panel_bytes(code.centre, code.is_wide)

    def put_half(words, half, panel, step, is_one_row):
        at = panel + 4 * half * step
        put(at, as_panel_bytes(words[0]), is_one_row)
        put(at + step, as_panel_bytes(words[1]), is_one_row)
        put(at + 2 * step, as_panel_bytes(words[2]), is_one_row)
        put(at + 3 * step, as_panel_bytes(words[3]), is_one_row)

    return device(put_half)


def define_expand_panel(code):
    """A device function: all columns of PANEL_VECTORS vectors of rows."""
    read_scales, quants, hidden = define_centred_scales(code), code.quants, HIDDEN[code.is_wide]
    put_part = for_each_half(code, _define_put_half(code))
    ask_in_panel = define_ask_in_panel(code.part_bytes)
    num_parts, segment_bytes = code.num_parts, code.segment_bytes
    groups_per_block, has_minimum = 32 // code.group_size, code.has_minimum

    @device
    def expand_rows(base, row_bytes, num_blocks, panel, scales, minimums, room, is_one_row):
        steps, step = row_steps(row_bytes), PANEL_VECTORS * lane_count() * 4
        ahead = base + lane_count() * row_bytes
        for block in range(0, num_blocks, SUPER_BLOCK):
            blocks = min(SUPER_BLOCK, num_blocks - block)
            read_scales(base, steps, blocks, room)
            for group in range(blocks * groups_per_block):
                at = (block * groups_per_block + group) * step
                put(scales + at, scale_at(room, group), is_one_row)
                if has_minimum:
                    put(minimums + at, minimum_at(room, group), is_one_row)
            for part in range(hidden(blocks * num_parts // SUPER_BLOCK)):
                ask_in_panel(ahead, part)
                halves = quants(base, steps, part, room)
                put_part(halves, part, panel + block * 8 * step, step, is_one_row)
            base += segment_bytes
            ahead += lane_count() * segment_bytes

    def expand_panel(
        weights, row_bytes, first_row, num_rows, num_blocks, panel, scales, minimums, room
    ):
        for v in range(PANEL_VECTORS):
            row, shift = first_row + v * lane_count(), v * lane_count() * 4
            rows = min(num_rows - row, lane_count())
            is_one_row = rows < lane_count()
            for i in range(rows if is_one_row else 1):
                expand_rows(
                    weights + (row + i) * row_bytes, 0 if is_one_row else row_bytes, num_blocks,
                    panel + shift + 4 * i, scales + shift + 4 * i, minimums + shift + 4 * i,
                    room, is_one_row,
                )  # fmt: skip

    return device(expand_panel)
