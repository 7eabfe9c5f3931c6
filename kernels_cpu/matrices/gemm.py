"""The product of a matrix with many tokens: expands a panel of rows, then multiplies all tokens.

A panel is ``PANEL_VECTORS`` vectors of rows over all columns. Rows of block formats are expanded by
``gemm_panels``, rows of float formats to f32. A tile of sums stays in registers for a whole group;
what adapters contribute is added before the sums are stored. Outputs are padded to whole panels and
tiles, so no loop has a tail. In the meantime, the rows that the thread will probably expand next
are prefetched.
"""

from __future__ import annotations

from edgellama.kernels_cpu.formats.panel_code import ROOM_VECTORS
from edgellama.kernels_cpu.formats.panels import PANEL_CODES
from edgellama.kernels_cpu.layouts import (
    ADDED_BYTES,
    BLOCK,
    CACHE_LINE,
    GEMM_TOKENS,
    MAX_ADDED_RANK,
    PAIR_BYTES,
    PANEL_VECTORS,
    SUM_BYTES,
    TILE_REGISTER_TOKENS,
    panel_scale_bytes,
    panel_scales_at,
    round_up,
)
from edgellama.kernels_cpu.matrices.float_panels import (
    EXPAND_FLOATS,
    added_tile,
    expand_added,
    float_tile,
)
from edgellama.kernels_cpu.matrices.gemm_panels import define_expand_panel
from edgellama.kernels_cpu.matrices.gemm_tiles import define_multiply
from edgellama.kernels_cpu.matrices.prefetching import likely_next
from edgellama.kernels_cpu.rows.activations import load_block, quantize_in_order
from edgellama.kernels_cpu.rows.kernels import silu_product
from edgellama.kernels_cpu.simd.byte_tiles import (
    block_tile,
    define_tile_setting,
    gemm_tokens,
    release_tiles,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.rows_in_lanes import stack_room
from edgellama.kernels_cpu.simd.tiles import add_tiles, f32_tile, load_tile, store_tile
from edgellama.kernels_cpu.simd.vectors import (
    lane_count,
)
from edgellama.kernels_cpu.threads.tasks import count_tasks, tasks_of


@device
def store_results(tile, y, y_stride, accumulate):
    """Write a finished tile, on top of what is there if ``accumulate``."""
    if accumulate:
        tile = add_tiles(tile, load_tile(tile, y, y_stride))
    store_tile(tile, y, y_stride)


@device
def leave_products(pairs, block, num_blocks, token, end, q, q_scale, q_sum, q_half_sum):
    """silu(gate) * up of one block of the tokens up to ``end``, as int8."""
    for at in range(token, end):
        gate = pairs + (at - token) * PAIR_BYTES
        gate_low, gate_high = load_block(gate)
        up_low, up_high = load_block(gate + PAIR_BYTES // 2)
        product = silu_product(gate_low, up_low), silu_product(gate_high, up_high)
        quantize_in_order(product, block, num_blocks, q, q_scale, q_sum, q_half_sum, 0, at)


def quantized_gemm(name):
    """y = weights x for blocks of ``name`` and many quantized tokens.

    Where ``up_weights`` is not 0, the result is silu(weights x) * (up_weights x) (Shazeer 2020)
    instead, left as int8 alone: what it is made of never leaves the thread. ``added`` is 0, or
    where a record says which product of float rows is added, of few columns; two records where
    there are two matrices.
    """
    code = PANEL_CODES[name]
    expand_panel, multiply = define_expand_panel(code), define_multiply(code)
    groups_per_block, set_tiles = 32 // code.group_size, define_tile_setting(code.group_size // 4)

    def kernel(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_scale, x_sum, x_half_sum, up_weights, added, q, q_scale, q_sum, q_half_sum,
        scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        num_blocks = num_columns // 32
        num_groups = num_blocks * groups_per_block
        panel_rows = PANEL_VECTORS * lane_count()
        scales_at = panel_scales_at(panel_rows, num_columns)
        scale_bytes = panel_scale_bytes(panel_rows, num_groups)
        panel_bytes = scales_at + 2 * scale_bytes
        is_gated = up_weights != 0
        task_rows = BLOCK if is_gated else panel_rows
        num_panels = 2 * BLOCK // panel_rows if is_gated else 1
        pairs = scratch + thread * scratch_stride
        panels, room = pairs + TILE_REGISTER_TOKENS * PAIR_BYTES, stack_room(ROOM_VECTORS)
        added_panels = panels + num_panels * panel_bytes
        added_bytes = MAX_ADDED_RANK * panel_rows * 4
        x_sums = x_sum if groups_per_block == 1 else x_half_sum
        num_tasks, ask_bytes = count_tasks(num_rows, task_rows), panel_rows * row_bytes
        num_asks = count_tasks(num_tokens, gemm_tokens()) * num_groups
        group_bytes = round_up(ask_bytes // num_asks + 1, CACHE_LINE)
        previous = num_tasks
        set_tiles(stack_room(1))
        for task in tasks_of(counter, job, num_tasks):
            following, previous = likely_next(task, previous, num_tasks), task
            first = task * task_rows
            for i in range(num_panels):
                matrix, row, record = weights, i * panel_rows, added
                if row >= task_rows:
                    matrix, row, record = up_weights, row - task_rows, added + ADDED_BYTES
                panel = panels + i * panel_bytes
                scales = panel + scales_at
                expand_panel(
                    matrix, row_bytes, first + row, num_rows, num_blocks, panel, scales,
                    scales + scale_bytes, room,
                )  # fmt: skip
                if added != 0:
                    expand_added(record, first + row, num_rows, added_panels + i * added_bytes)
            for token in range(0, num_tokens, gemm_tokens()):
                target, stride = y + token * y_stride + 4 * first, y_stride
                if is_gated:
                    target, stride = pairs, PAIR_BYTES
                tokens = (
                    (x + token * num_columns, num_columns),
                    (x_scale + token * num_blocks * 4, num_blocks * 4),
                    (x_sums + token * num_groups * SUM_BYTES, num_groups * SUM_BYTES),
                )
                for i in range(num_panels):
                    panel = panels + i * panel_bytes
                    scales = panel + scales_at
                    asked = token // gemm_tokens() * num_groups * group_bytes
                    ahead_bytes = group_bytes * (asked < ask_bytes and following < num_tasks)
                    matrix, row = weights, following * task_rows + i * panel_rows
                    if i * panel_rows >= task_rows:
                        matrix, row = up_weights, row - task_rows
                    ahead = matrix + row * row_bytes + asked
                    tile = multiply(
                        block_tile(), (panel, scales, scales + scale_bytes), tokens, num_groups,
                        (ahead, ahead_bytes),
                    )  # fmt: skip
                    results = target + 4 * i * panel_rows
                    if added != 0:
                        if accumulate:
                            tile = add_tiles(tile, load_tile(tile, results, stride))
                        record = added + (i * panel_rows >= task_rows) * ADDED_BYTES
                        more = added_tile(record, added_panels + i * added_bytes, token)
                        store_tile(add_tiles(tile, more), results, stride)
                    else:
                        store_results(tile, results, stride, accumulate)
                if is_gated:
                    leave_products(
                        pairs, task, num_rows // BLOCK, token,
                        min(token + gemm_tokens(), num_tokens), q, q_scale, q_sum, q_half_sum,
                    )  # fmt: skip
        release_tiles()

    return kernel


def float_gemm(name):
    """y = weights x for float weights and many f32 tokens."""
    expand = EXPAND_FLOATS[name]

    def kernel(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_stride, scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        panel_rows = PANEL_VECTORS * lane_count()
        panel = scratch + thread * scratch_stride
        num_tasks = count_tasks(num_rows, panel_rows)
        for task in tasks_of(counter, job, num_tasks):
            first = task * panel_rows
            expand(weights, row_bytes, num_columns, first, num_rows, panel)
            for token in range(0, num_tokens, GEMM_TOKENS):
                zeros = f32_tile(PANEL_VECTORS, GEMM_TOKENS)
                tile = float_tile(zeros, panel, num_columns, x + token * x_stride, x_stride)
                store_results(tile, y + token * y_stride + 4 * first, y_stride, accumulate)

    return kernel
