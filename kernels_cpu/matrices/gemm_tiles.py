"""The register tile of long steps: a panel of rows times a tile of tokens, group by group.

Both have been prepared: weights as bytes in lanes (``gemm_panels``), activations as int8 in order.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import PANEL_VECTORS, START_AT, SUM_BYTES
from edgellama.kernels_cpu.matrices.prefetching import ask_for
from edgellama.kernels_cpu.simd.byte_tiles import (
    DOT_BYTES,
    DOTS_ROOM,
    SCALE_DOTS,
    has_byte_tiles,
    leave_dots,
)
from edgellama.kernels_cpu.simd.dot_tiles import SCALE_TILE
from edgellama.kernels_cpu.simd.group_dots import define_group_dots
from edgellama.kernels_cpu.simd.rows_in_lanes import stack_room
from edgellama.kernels_cpu.simd.tier_choice import by_tier
from edgellama.kernels_cpu.simd.vectors import lane_count


def define_multiply(code):
    """A device function: ``tile`` plus the products of a panel with a tile of tokens.

    ``rows``: addresses of the panel's weights, scales and minimums. ``tokens``: those of the
    quants, scales and sums, each with the bytes from a token to the next. ``ahead``: memory to ask
    for with every group of weights that share a scale, and how many bytes.
    """
    group_words = code.group_size // 4
    group_dots = define_group_dots(group_words, code.centre, code.is_wide)
    scale_tile, in_order = SCALE_TILE[code.has_minimum], code.group_in_order
    scale_dots, groups_per_scale = SCALE_DOTS[code.has_minimum], 32 // code.group_size

    def multiply(tile, rows, tokens, num_groups, ahead):
        panel, scales, minimums = rows
        (x, x_bytes), (x_scale, scale_bytes), (x_sum, sum_bytes) = tokens
        ahead_at, ahead_bytes = ahead
        step = PANEL_VECTORS * lane_count() * 4
        for number in range(num_groups):
            ask_for(ahead_at + number * ahead_bytes, ahead_bytes)
            group = in_order(number)
            sums = x_sum + group * SUM_BYTES
            dots = group_dots(
                tile, panel + group * group_words * step, step, x + 4 * group * group_words,
                x_bytes, sums + START_AT, sum_bytes,
            )  # fmt: skip
            tile = scale_tile(
                tile, dots, scales + group * step, minimums + group * step,
                x_scale + group // groups_per_scale * 4, scale_bytes, sums, sum_bytes,
            )  # fmt: skip
        return tile

    def multiply_in_tiles(tile, rows, tokens, num_groups, ahead):
        panel, scales, minimums = rows
        (x, x_bytes), (x_scale, scale_bytes), (x_sum, sum_bytes) = tokens
        ahead_at, ahead_bytes = ahead
        step = PANEL_VECTORS * lane_count() * 4
        dots = stack_room(DOTS_ROOM)
        first = in_order(0)
        leave_dots(
            panel + first * group_words * step, step, x + 4 * first * group_words, x_bytes, dots
        )
        for number in range(num_groups):
            ask_for(ahead_at + number * ahead_bytes, ahead_bytes)
            # The tile registers are a group ahead of the vectors, which read its sums from memory.
            group, following = in_order(number), in_order(min(number + 1, num_groups - 1))
            leave_dots(
                panel + following * group_words * step, step, x + 4 * following * group_words,
                x_bytes, dots + (number + 1) % 2 * DOT_BYTES,
            )  # fmt: skip
            tile = scale_dots(
                tile, dots + number % 2 * DOT_BYTES, scales + group * step,
                minimums + group * step, x_scale + group // groups_per_scale * 4, scale_bytes,
                x_sum + group * SUM_BYTES, sum_bytes,
            )  # fmt: skip
        return tile

    return by_tier(has_byte_tiles, multiply_in_tiles, multiply)
