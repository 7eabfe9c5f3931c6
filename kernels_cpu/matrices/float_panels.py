"""Panels of float rows for long steps, and their products: of float matrices and of adapters."""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import (
    ADDED_FORMAT,
    ADDED_RANK,
    ADDED_ROW_BYTES,
    ADDED_ROWS,
    ADDED_STRIDE,
    ADDED_WEIGHTS,
    PANEL_VECTORS,
)
from edgellama.kernels_cpu.matrices.gemv import FLOAT_LOADS
from edgellama.kernels_cpu.simd.byte_tiles import block_tile
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.tiles import FMA_TILE
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros_4,
    lane_count,
    read_f32,
    read_i64,
    store,
    write_f32,
)
from edgellama.quant.formats import FLOAT_FORMATS

FMA_F32 = FMA_TILE["f32"]


@device
def gather_word(source, source_stride, destination):
    """The word at ``source`` of every row to the lanes of one vector."""
    for i in range(lane_count()):
        write_f32(destination + 4 * i, read_f32(source + i * source_stride))


def _define_expand_floats(name):
    """A panel of float rows from ``first`` on as f32, and behind it room for four columns."""
    load, number_bytes = FLOAT_LOADS[name]

    def expand(weights, row_bytes, num_columns, first, num_rows, panel):
        lanes = lane_count()
        step = PANEL_VECTORS * lanes * 4
        spare = panel + num_columns * step
        for v in range(PANEL_VECTORS):
            for column in range(0, num_columns, 4):
                for i in range(lanes):
                    # Past the last row that one again, whose results nobody reads.
                    row = weights + min(first + v * lanes + i, num_rows - 1) * row_bytes
                    store(spare + 16 * i, load(row + column * number_bytes, f32_zeros_4()))
                for i in range(4):
                    to = panel + (column + i) * step + v * lanes * 4
                    gather_word(spare + 4 * i, 16, to)

    return device(expand)


EXPAND_FLOATS = {name: _define_expand_floats(name) for name in FLOAT_FORMATS}
_expand_f32, _expand_f16, _expand_bf16 = EXPAND_FLOATS.values()


@device
def float_tile(tile, panel, num_columns, x, x_stride):
    """A tile plus the products of a panel of f32 rows with its tokens."""
    step = PANEL_VECTORS * lane_count() * 4
    for column in range(num_columns):
        tile = FMA_F32(tile, panel + column * step, x + 4 * column, x_stride)
    return tile


@device
def expand_added(added, first, num_rows, panel):
    """The panel of the float matrix that a record of ``layouts`` names."""
    weights, row_bytes = read_i64(added + ADDED_WEIGHTS), read_i64(added + ADDED_ROW_BYTES)
    number, rank = read_i64(added + ADDED_FORMAT), read_i64(added + ADDED_RANK)
    if number == 0:
        _expand_f32(weights, row_bytes, rank, first, num_rows, panel)
    elif number == 1:
        _expand_f16(weights, row_bytes, rank, first, num_rows, panel)
    else:
        _expand_bf16(weights, row_bytes, rank, first, num_rows, panel)


@device
def added_tile(added, panel, token):
    """What is added to a tile of tokens' products."""
    stride = read_i64(added + ADDED_STRIDE)
    x = read_i64(added + ADDED_ROWS) + token * stride
    return float_tile(block_tile(), panel, read_i64(added + ADDED_RANK), x, stride)
