"""What a block of query rows attends: its segment, its tokens, and its part of their keys.

If keys are split, each part leaves partial results for a row: the largest score, the sum of the
weights, and the sums of values. A warp has the same rows in every part, and the last of these warps
to finish merges all parts in the order of the keys, with ``merge``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.decode_layout import padded_head, partial_bytes
from edgellama.cuda.kernels.lanes import each, lanes_of, spread
from edgellama.cuda.kernels.memory import GLOBAL, read_global_i64, store_lanes, write_global_i32
from edgellama.cuda.kernels.merge import copy_rows, define_merge
from edgellama.cuda.kernels.row_registers import lanes_in, registers, values_in
from edgellama.cuda.kernels.segments import find_segment
from edgellama.cuda.kernels.tile_rows import warp_rows
from edgellama.cuda.kernels.warp import memory_fence, take_ticket, warp_barrier
from edgellama.cuda.layouts import (
    FIRST_TASK,
    NUM_DECODE_SEGMENTS,
    NUM_SEGMENTS,
    NUM_TOKENS,
    PARTIALS,
    POSITION,
    SPLIT_KEYS,
    TICKETS,
    TILE_ROWS,
    row_parts,
    tile_tokens,
)
from edgellama.cuda.prefill_parts import TICKETS_OF_BLOCK
from edgellama.cuda.prefill_tiles import Tile
from edgellama.kernels_cpu.layouts import count_splits, first_seen
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import I32, I64

ROWS_AT_ONCE, LOADS_AT_ONCE = 4, 8
"""Rows that a warp merges together, and loads of each lane at once: registers are few."""


@device
def tile_of(segments, group, task, window):
    """The segment that a block attends, its first token there, how many it has, and its part.

    All tiles of a segment have as many tasks as its keys have parts, the first 0.
    """
    first = read_global_i64(segments + NUM_DECODE_SEGMENTS)
    last = read_global_i64(segments + NUM_SEGMENTS)
    segment = find_segment(segments, first, last, FIRST_TASK, task)
    task -= read_global_i64(segment + FIRST_TASK)
    count = parts_of(segment, 0, read_global_i64(segment + NUM_TOKENS), window)
    token = task // count * tile_tokens(group)
    num_tokens = min(tile_tokens(group), read_global_i64(segment + NUM_TOKENS) - token)
    return segment, token, num_tokens, task % count


@device
def parts_of(segment, token, num_tokens, window):
    """Parts of the keys that some tokens of a segment see."""
    position = read_global_i64(segment + POSITION) + token
    return count_splits(position, num_tokens, read_global_i64(segment + SPLIT_KEYS), window)


@device
def first_part(segment, token, window):
    """The first part, of the segment's, that holds a key which a token sees."""
    position, split_keys = (
        read_global_i64(segment + POSITION),
        read_global_i64(segment + SPLIT_KEYS),
    )
    before = first_seen(position, window) // split_keys
    return first_seen(position + token, window) // split_keys - before


@device
def keys_of_part(segment, token, num_tokens, part, window, num_keys):
    """The keys of a tile's part: from a multiple of ``num_keys`` on, to the last that it sees.

    There are none where the part is another tile's.
    """
    position, split_keys = (
        read_global_i64(segment + POSITION),
        read_global_i64(segment + SPLIT_KEYS),
    )
    start = (first_seen(position, window) // split_keys + part) * split_keys
    first = max(first_seen(position + token, window) // num_keys * num_keys, start)
    return first, min(position + token + num_tokens, start + split_keys)


@intrinsic
def anew(typingctx, number):
    """The same uniform number, from which LLVM computes nothing before a loop."""
    width = lanes_of(typingctx, "i32").width

    def codegen(ctx, b, sig, args):
        if width > 1:
            return args[0]
        kind = ir.FunctionType(I64, [I64])
        return b.call(ir.InlineAsm(kind, "mov.b64 $0, $1;", "=l,l", side_effect=True), args)

    return types.int64(types.int64), codegen


@device
def place_of(segment, token, group, part, window, num_kv_heads, kv_head, plane, head_size):
    """Where a block leaves results: its own rows, the first part's, from one part to the next.

    The last is the address of the first of the tile's counters for this KV head and plane.
    """
    group = anew(group)
    num_tokens, planes = read_global_i64(segment + NUM_TOKENS), row_parts(group)
    tile = token // tile_tokens(group)
    block = kv_head * planes + plane
    block_bytes = TILE_ROWS * partial_bytes(head_size)
    part_bytes = num_kv_heads * planes * block_bytes
    parts = read_global_i64(segment + PARTIALS) + block * block_bytes
    parts += tile * parts_of(segment, 0, num_tokens, window) * part_bytes
    tickets = (tile * num_kv_heads * planes + block) * TICKETS_OF_BLOCK
    return (
        parts + part * part_bytes, parts + first_part(segment, token, window) * part_bytes,
        part_bytes, read_global_i64(segment + TICKETS) + 4 * tickets,
    )  # fmt: skip


def leave_columns(tile: Tile) -> Any:
    """Device function: largest scores and sums of weights of a warp's rows, where they are left.

    ``largest`` is multiplied by the scale, ``target`` is where the first row's results lie, each
    ``row_bytes`` further; the sums must be those of all lanes that have part of a row.
    """
    rows = tile.rows

    @intrinsic
    def left(typingctx, largest, sums, scale, target, row_bytes, num_rows):
        lanes = lanes_of(typingctx, "f32")

        def codegen(ctx, b, sig, args):
            width, (largest, sums) = lanes.width, (values_in(b, value) for value in args[:2])
            lane, first = lanes_in(b, width), warp_rows(b, tile, width)
            is_first = b.icmp_signed(
                "==", b.urem(lane, each(lane.type, rows.lanes)), each(lane.type, 0)
            )
            scale, count = spread(b, args[2], width), spread(b, b.trunc(args[5], I32), width)
            target, row_bytes = spread(b, args[3], width), spread(b, args[4], width)
            for i, (top, total) in enumerate(zip(largest, sums, strict=True)):
                row = b.add(first, each(lane.type, i * rows.far))
                is_own = b.and_(is_first, b.icmp_signed("<", row, count))
                at = b.add(target, b.mul(b.sext(row, target.type), row_bytes))
                store_lanes(b, at, b.fmul(top, scale), is_own, GLOBAL, width)
                behind = b.add(at, each(at.type, 4))
                store_lanes(b, behind, total, is_own, GLOBAL, width)
            return ctx.get_dummy_value()

        column = registers(lanes, rows.count)
        return types.void(column, column, types.float32, *[types.int64] * 3), codegen

    return left


def merge_parts() -> Any:
    """Device function: if a warp is the last to have left its rows, the results of all parts.

    Its ``num_rows`` rows begin at ``parts`` in the first of ``num_parts``; ``first_row`` is the
    first one's number in the tile, whose tokens and heads are written from ``y`` on.
    """
    merge = define_merge(ROWS_AT_ONCE, LOADS_AT_ONCE)

    @device
    def merge_rows(parts, num_parts, part_bytes, ticket, y, y_stride, head_size, group, first_row,
                   num_rows, shared):  # fmt: skip
        warp_barrier()
        memory_fence()
        if take_ticket(ticket) == num_parts - 1:
            memory_fence()
            warp_barrier()  # One lane took the ticket; the others see what it saw.
            for row in range(0, num_rows, ROWS_AT_ONCE):
                count = min(num_rows - row, ROWS_AT_ONCE)
                start = parts + row * partial_bytes(head_size)
                merge(start, num_parts, part_bytes, count, head_size, shared)
                warp_barrier()
                for i in range(count):
                    token, head = (first_row + row + i) // group, (first_row + row + i) % group
                    target = y + token * y_stride + head * head_size * 4
                    copy_rows(shared + i * 4 * padded_head(head_size), 1, head_size, target, 0)
                warp_barrier()
            write_global_i32(ticket, 0)

    return merge_rows
