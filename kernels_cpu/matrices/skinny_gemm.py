"""The product of a matrix with a few tokens: reads as many rows at once as a vector has lanes.

Weight blocks are read where they lie. A group of rows, called a panel, is unpacked in registers,
and a register tile holds its results for up to 8 tokens (``SKINNY_TILES``): unpacking a panel costs
more than reading a row alone, but a further token costs little. Threads take rows in chunks, so
each reads one sequential stream. Every output is summed in one fixed order.
"""

from __future__ import annotations

from edgellama.kernels_cpu.formats.panel_code import (
    MINIMUMS_AT,
    ROOM_VECTORS,
    SPARE_AT,
    define_centred_scales,
    in_room,
)
from edgellama.kernels_cpu.formats.panels import PANEL_CODES
from edgellama.kernels_cpu.layouts import START_AT, SUM_BYTES, SUPER_BLOCK
from edgellama.kernels_cpu.matrices.prefetching import ask_for, define_ask_in_panel
from edgellama.kernels_cpu.simd.arithmetic import add
from edgellama.kernels_cpu.simd.compiler_barriers import HIDDEN
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.dot_tiles import (
    ADD_WEIGHTS,
    FINISH_SUMS,
    SCALE_TILE,
    define_start_sums,
)
from edgellama.kernels_cpu.simd.rows_in_lanes import row_steps, stack_room
from edgellama.kernels_cpu.simd.tiles import f32_tile, store_tile
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    read_f32,
    store,
    write_f32,
)
from edgellama.kernels_cpu.threads.tasks import count_tasks, tasks_of


def _tile_tokens(code, tokens):
    """Tokens of one register tile: half where as many sums and unpacked words do not fit."""
    is_long = code.halves_each == 4 and code.group_size == 32
    return tokens // 2 if tokens > 4 and is_long else tokens


def _define_add_half(code):
    """Sums += products of 16 weights of every row with every token's quants at ``x``."""
    add_weights = ADD_WEIGHTS[code.is_wide]

    def add_half(sums, words, x, x_bytes):
        sums = add_weights(sums, words[0], x, x_bytes)
        sums = add_weights(sums, words[1], x + 4, x_bytes)
        sums = add_weights(sums, words[2], x + 8, x_bytes)
        return add_weights(sums, words[3], x + 12, x_bytes)

    return device(add_half)


def _define_scale_group(code):
    """Tile += sums of the products of a group, scaled; groups are counted within the segment."""
    scale_tile, finish_sums = SCALE_TILE[code.has_minimum], FINISH_SUMS[code.is_wide]
    groups_per_block = 32 // code.group_size

    def scale_group(tile, sums, room, group, x_scale, x_sum, num_columns):
        return scale_tile(
            tile, finish_sums(sums), in_room(room, group), in_room(room, MINIMUMS_AT + group),
            x_scale + 4 * (group // groups_per_block), num_columns // 8,
            x_sum + SUM_BYTES * group, groups_per_block * num_columns // 4,
        )  # fmt: skip

    return device(scale_group)


def _define_multiply_group(code):
    """Tile += one or two halves of a block, which make a group, number ``half`` the first."""
    start_sums = define_start_sums(code.centre, code.is_wide)
    add_half, scale_group = _define_add_half(code), _define_scale_group(code)
    halves_each = code.group_size // 16

    def multiply_half(tile, halves, index, half, room, x, x_scale, x_sum, num_columns):
        starts = x_sum + SUM_BYTES * half + START_AT
        sums = start_sums(tile, starts, num_columns // 2)
        sums = add_half(sums, halves[index], x + 16 * half, num_columns)
        return scale_group(tile, sums, room, half, x_scale, x_sum, num_columns)

    def multiply_block(tile, halves, index, half, room, x, x_scale, x_sum, num_columns):
        block, here = half // 2, x + 16 * half
        sums = start_sums(tile, x_sum + SUM_BYTES * block + START_AT, num_columns // 4)
        sums = add_half(sums, halves[index], here, num_columns)
        sums = add_half(sums, halves[index + 1], here + 16, num_columns)
        return scale_group(tile, sums, room, block, x_scale, x_sum, num_columns)

    return device(multiply_half if halves_each == 1 else multiply_block)


def _define_multiply_part(code):
    """Tile += a part of a segment: one, two or four groups."""
    multiply = _define_multiply_group(code)
    first_half, step = code.first_half, code.half_step
    groups_each = code.halves_each * 16 // code.group_size

    def one(tile, halves, part, *rest):
        return multiply(tile, halves, 0, first_half(part), *rest)

    def two(tile, halves, part, *rest):
        half = first_half(part)
        tile = multiply(tile, halves, 0, half, *rest)
        return multiply(tile, halves, 2, half + 2, *rest)

    def four(tile, halves, part, *rest):
        half = first_half(part)
        tile = multiply(tile, halves, 0, half, *rest)
        tile = multiply(tile, halves, 1, half + step, *rest)
        tile = multiply(tile, halves, 2, half + 2 * step, *rest)
        return multiply(tile, halves, 3, half + 3 * step, *rest)

    return device({1: one, 2: two, 4: four}[groups_each])


def _define_multiply_panel(code, tile_tokens):
    """The results of a panel's rows for one or two tiles of tokens, by one unpacking."""
    multiply_part, ask_in_panel = _define_multiply_part(code), define_ask_in_panel(code.part_bytes)
    scales, quants, hidden = define_centred_scales(code), code.quants, HIDDEN[code.is_wide]
    num_parts, segment_bytes = code.num_parts, code.segment_bytes
    sum_bytes = SUM_BYTES * 32 // code.group_size
    num_tokens = _tile_tokens(code, tile_tokens)
    is_double = num_tokens < tile_tokens

    def multiply_panel(base, steps, num_blocks, room, x, x_scale, x_sum):
        tile = other = f32_tile(1, num_tokens)
        num_columns, ahead = 32 * num_blocks, base + lane_count() * steps[0]
        x_step, scale_step = num_tokens * num_columns, num_tokens * num_blocks * 4
        sum_step = num_tokens * num_blocks * sum_bytes
        for block in range(0, num_blocks, SUPER_BLOCK):
            blocks = min(SUPER_BLOCK, num_blocks - block)
            scales(base, steps, blocks, room)
            for part in range(hidden(blocks * num_parts // SUPER_BLOCK)):
                ask_in_panel(ahead, part)
                words = quants(base, steps, part, room)
                here, here_scale = x + 32 * block, x_scale + 4 * block
                here_sum = x_sum + sum_bytes * block
                tile = multiply_part(
                    tile, words, part, room, here, here_scale, here_sum, num_columns
                )
                if is_double:
                    other = multiply_part(
                        other, words, part, room, here + x_step, here_scale + scale_step,
                        here_sum + sum_step, num_columns,
                    )  # fmt: skip
            base += segment_bytes
            ahead += lane_count() * segment_bytes
        return tile, other

    return device(multiply_panel)


@device
def write_results(tile, room, y, y_stride, num_tokens, is_one_row, accumulate):
    """The results of a panel, or of the first row alone, on top of what is there or not."""
    results = in_room(room, SPARE_AT)
    store_tile(tile, results, 4 * lane_count())
    for token in range(num_tokens):
        source, target = results + 4 * lane_count() * token, y + token * y_stride
        if is_one_row:
            value = read_f32(source)
            if accumulate:
                value += read_f32(target)
            write_f32(target, value)
        else:
            values = load_f32(source, f32_zeros())
            if accumulate:
                values = add(load_f32(target, values), values)
            store(target, values)


def _define_multiply_rows(code, tile_tokens):
    """The results of a chunk of rows for all tokens.

    Rows that do not fill a panel are taken one by one, each as if it were all of a panel's.
    """
    multiply_panel = _define_multiply_panel(code, tile_tokens)
    groups_per_block = 32 // code.group_size
    half = _tile_tokens(code, tile_tokens)
    is_double = half < tile_tokens

    def multiply_rows(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_scale, x_sum, room,
    ):  # fmt: skip
        row = 0
        while row < num_rows:
            is_one_row = row + lane_count() > num_rows
            steps = row_steps(0 if is_one_row else row_bytes)
            for token in range(0, num_tokens, tile_tokens):
                tile, other = multiply_panel(
                    weights + row * row_bytes, steps, num_columns // 32, room,
                    x + token * num_columns, x_scale + token * num_columns // 8,
                    x_sum + token * groups_per_block * num_columns // 4,
                )  # fmt: skip
                left, at = num_tokens - token, y + token * y_stride + 4 * row
                write_results(tile, room, at, y_stride, min(half, left), is_one_row, accumulate)
                if is_double and left > half:
                    write_results(
                        other, room, at + half * y_stride, y_stride, min(half, left - half),
                        is_one_row, accumulate,
                    )  # fmt: skip
            row += 1 if is_one_row else lane_count()

    return device(multiply_rows)


def skinny_gemm(name, tile_tokens):
    """y = weights x for blocks of ``name`` and a few quantized tokens."""
    code = PANEL_CODES[name]
    multiply_rows, is_in_halves = _define_multiply_rows(code, tile_tokens), code.group_size == 16

    def kernel(
        weights, row_bytes, num_rows, num_columns, y, y_stride, accumulate, num_tokens,
        x, x_scale, x_sum, x_half_sum, chunk_rows, counter, thread, job,
    ):  # fmt: skip
        room = stack_room(ROOM_VECTORS)
        sums = x_half_sum if is_in_halves else x_sum
        num_tasks = count_tasks(num_rows, chunk_rows)
        for task in tasks_of(counter, job, num_tasks):
            first = task * chunk_rows
            rows, begin = min(chunk_rows, num_rows - first), weights + first * row_bytes
            ask_for(begin, min(rows, lane_count()) * row_bytes)
            multiply_rows(
                begin, row_bytes, rows, num_columns, y + 4 * first, y_stride, accumulate,
                num_tokens, x, x_scale, sums, room,
            )  # fmt: skip

    return kernel
