"""Requests memory before it is read: main memory far ahead, the second-level cache just before.

Rows that are used together lie one behind the other, so the far requests form one stream that
reaches the next rows in time. Such early data would not fit into the first-level cache beside the
activations of a long row; the second request, for each row by itself, brings it there.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import CACHE_LINE
from edgellama.kernels_cpu.matrices.side_by_side import for_cells
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    f32_zeros_4,
    lane_count,
    prefetch_to_l1,
    prefetch_to_l2,
)

FAR_BYTES = 8192
"""As measured: half as far and twice as far are slower."""
NEAR_BYTES = 1024


def define_ask_in_page(num_bytes):
    """What a loop over blocks of a page calls at an address, so many bytes for every four lanes.

    ``far`` is how far away the block is that is read after the ones between, see ``far_block``.
    """

    def ask_in_page(address, far, like):
        prefetch_to_l2(address + far, num_bytes, like)
        prefetch_to_l1(address + NEAR_BYTES, num_bytes, like)

    return device(ask_in_page)


@device
def far_block(block, number, num_blocks, block_bytes, following):
    """From a block of a page, number ``number`` of ``num_blocks``, to what is read FAR_BYTES later.

    That is in the same page, or in the one whose blocks begin at ``following``. Where that is this
    page nothing follows, and the block itself is given: asking for memory that was never written
    takes as long as reading what was.
    """
    later = number + min(max(FAR_BYTES // block_bytes, 1), num_blocks)
    if later < num_blocks:
        return (later - number) * block_bytes
    if following == block - number * block_bytes:
        return 0
    return following + (later - num_blocks) * block_bytes - block


@device
def bytes_ahead(row_bytes, num_rows):
    """How far ahead the stream is of the first of ``num_rows`` rows that go together."""
    return (num_rows - 1) * row_bytes + FAR_BYTES


@device
def ask_for(address, num_bytes):
    """Ask at once for memory that no stream comes to, such as the begin of a chunk."""
    for offset in range(0, num_bytes, CACHE_LINE):
        prefetch_to_l2(address + offset, CACHE_LINE, f32_zeros_4())


@device
def _only_row(cells):
    return (cells[0][0],)


@device
def _both_rows(cells):
    return cells[0][0], cells[-1][0]


@device
def _paired_rows(cells):
    return cells[0][0], cells[0][3]


def _rows_of(tile):
    """What gives the addresses of the rows of a tile's cells."""
    if tile.is_paired:
        return _paired_rows
    return _only_row if tile.num_rows == 1 else _both_rows


def define_ask_ahead(tile, step_bytes):
    """What a loop over the steps of a tile's cells calls before each.

    A step takes ``step_bytes`` of a row for every four lanes of ``like``; ``ahead`` is where the
    stream is before the first.
    """
    stream_bytes, rows_of = tile.num_rows * step_bytes, _rows_of(tile)

    def ask_near(row, offset, like):
        prefetch_to_l1(row + offset + NEAR_BYTES, step_bytes, like)

    ask_near_in_rows = for_cells(ask_near)

    def ask_ahead(cells, ahead, step, like):
        prefetch_to_l2(ahead + step * stream_bytes, stream_bytes, like)
        ask_near_in_rows((rows_of(cells),), step * step_bytes, like)

    return device(ask_ahead)


def define_ask_in_panel(part_bytes):
    """What a loop over the parts of a panel's rows calls before each.

    The stream goes through as many rows, from ``ahead`` on, as the panel has. What is near is left
    to the processor, which follows the rows by itself: asking for it costs as many instructions
    as there are rows.
    """
    bytes_of_four = 4 * part_bytes

    def ask_in_panel(ahead, part):
        prefetch_to_l2(ahead + part * part_bytes * lane_count(), bytes_of_four, f32_zeros())

    return device(ask_in_panel)


@device
def likely_next(task, previous, num_tasks):
    """The task that comes to a thread after this one if threads go on taking turns.

    ``num_tasks`` if there is none, or no telling: ``previous`` is then ``num_tasks`` as well.
    """
    following = 2 * task - previous
    return following if previous < task and following < num_tasks else num_tasks
