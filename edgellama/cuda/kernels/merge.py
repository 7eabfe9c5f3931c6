"""What becomes of a warp's result rows: written to the output, left as partial results, or merged.

The result rows lie in shared memory, each as long as a padded head. Partial results are those of
one part of the keys; merging adds them in the order of the keys. Which warp merges is left to the
kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.decode_layout import PARTIAL_NUMBERS_AT, padded_head, partial_bytes
from edgellama.cuda.kernels.key_products import address_of
from edgellama.cuda.kernels.lanes import each, i32_lanes, lane_number, spread, widened
from edgellama.cuda.kernels.memory import (
    GLOBAL,
    SHARED,
    load_lanes,
    load_shared_f32,
    load_words,
    store_global,
    store_lanes,
)
from edgellama.cuda.kernels.numbers import fused, smaller
from edgellama.cuda.kernels.row_registers import (
    added_rows,
    f32_registers,
    lanes_in,
    largest_of_rows,
    powers_below,
    registers,
    scaled_rows,
    sums_of_lanes,
    values_in,
)
from edgellama.cuda.kernels.warp import lane_value
from edgellama.cuda.layouts import WARP
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import I32, I64, tier_of

LANE_ELEMENTS = 4
"""Elements of a head that a lane merges at once: 16 bytes of each result."""
LOADS_AT_ONCE = 16
"""Of 16 bytes in each lane, while results are merged."""
LOWEST = np.float32(-1e30)
"""The largest score before any: finite, so that differences to it are numbers."""


@device
def copy_rows(rows, num_rows, head_size, target, target_bytes):
    """Rows in shared memory to global memory, ``target_bytes`` from one to the next."""
    for _ in range(num_rows):
        for first in range(0, head_size, WARP):
            element = lane_number() + first
            numbers = load_shared_f32(widened(element * 4) + rows)
            store_global(widened(element * 4) + target, numbers, element < head_size)
        rows += 4 * padded_head(head_size)
        target += target_bytes


@intrinsic
def inverses(typingctx, column):
    """1 / x of each place."""

    def codegen(ctx, b, sig, args):
        ones = [b.fdiv(each(x.type, 1.0), x) for x in values_in(b, args[0])]
        return ctx.make_tuple(b, column, ones)

    return column(column), codegen


@intrinsic
def store_column(typingctx, column, address, stride, num_rows):
    """The number of each of the first rows, alike in all lanes, ``stride`` bytes apart."""
    width = column.dtype.width

    def codegen(ctx, b, sig, args):
        lane = lanes_in(b, width)
        is_first = b.icmp_signed("==", lane, each(lane.type, 0))
        for row, value in enumerate(values_in(b, args[0])):
            at = spread(b, b.add(args[1], b.mul(args[2], I64(row))), width)
            exists = spread(b, b.icmp_signed(">", args[3], I64(row)), width)
            store_lanes(b, at, value, b.and_(is_first, exists), GLOBAL, width)
        return ctx.get_dummy_value()

    return types.void(column, *[types.int64] * 3), codegen


@device
def write_partials(outputs, largest, total, num_rows, head_size, target):
    """What a part of the keys gave, for the rows that follow each other from ``target`` on."""
    num_bytes = partial_bytes(head_size)
    store_column(largest, target, num_bytes, num_rows)
    store_column(total, target + 4, num_bytes, num_rows)
    copy_rows(outputs, num_rows, head_size, target + PARTIAL_NUMBERS_AT, num_bytes)


def _define_load_column(rows: int) -> Any:
    """Intrinsic ``(addresses, stride, num_rows)``: an f32 of each row from each lane's address on.

    Rows from ``num_rows`` on repeat the last.
    """

    @intrinsic
    def load(typingctx, addresses, stride, num_rows):
        width = addresses.width
        result = registers(addresses.of("f32"), rows)

        def codegen(ctx, b, sig, args):
            numbers = []
            for row in range(rows):
                at = b.mul(args[1], row_number(b, row, args[2]))
                at = b.add(args[0], spread(b, at, width))
                numbers.append(load_lanes(b, at, "f32", GLOBAL, width))
            return ctx.make_tuple(b, result, numbers)

        return result(addresses, types.int64, types.int64), codegen

    return load


@intrinsic
def where(typingctx, column, mask):
    """The column, with zeros in lanes whose mask is not set."""

    def codegen(ctx, b, sig, args):
        zero = each(column.dtype.llvm, 0.0)
        kept = [b.select(args[1], x, zero) for x in values_in(b, args[0])]
        return ctx.make_tuple(b, column, kept)

    return column(column, mask), codegen


def splits_at_once(rows: int, loads: int) -> int:
    """Results that are loaded before they are summed: a power of two, as 32 is."""
    return 1 << ((loads // rows).bit_length() - 1)


def _define_add_results(rows: int, at_once: int) -> Any:
    """Intrinsic that adds some of the results of 32 splits, each times the factor of its lane.

    ``(sums, factors, first, count, address, split_bytes, row_bytes, num_rows, offset)``: from split
    ``first`` on, of ``count``; ``offset`` tells, in i32 lanes, where a lane's elements lie.
    """

    @intrinsic
    def add(typingctx, sums, factors, first, count, address, split_bytes, row_bytes, num_rows,
            offset):  # fmt: skip
        width, tier = offset.width, tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            first, count, address, split_bytes, row_bytes, num_rows, offset = args[2:]
            loaded = []
            for i in range(at_once):
                split = b.add(first, I64(i))
                last = b.sub(count, I64(1))
                held = b.select(b.icmp_signed("<", split, last), split, last)
                start = b.add(address, b.mul(held, split_bytes))
                for row in range(rows):
                    at = b.add(start, b.mul(row_number(b, row, num_rows), row_bytes))
                    words = load_words(b, address_of(b, at, offset, width), LANE_ELEMENTS, GLOBAL,
                                       width)  # fmt: skip
                    loaded.append((b.trunc(split, I32), row, words))
            columns, values = values_in(b, args[1]), values_in(b, args[0])
            for split, row, words in loaded:
                factor = lane_value(b, columns[row], split, width)
                for i, word in enumerate(words):
                    at = row * LANE_ELEMENTS + i
                    number = b.bitcast(word, factor.type)
                    values[at] = fused(b, number, factor, values[at], tier)
            return ctx.make_tuple(b, sums, values)

        return sums(sums, factors, *[types.int64] * 6, offset), codegen

    return add


@intrinsic
def store_merged(typingctx, sums, target, row_bytes, element, mask):
    """Four elements of each row, from i32 lanes ``element`` on, to rows in shared memory."""
    width = element.width

    def codegen(ctx, b, sig, args):
        byte = b.mul(args[3], each(args[3].type, 4))
        for at, value in enumerate(values_in(b, args[0])):
            row, i = divmod(at, LANE_ELEMENTS)
            start = b.add(b.add(args[1], b.mul(args[2], I64(row))), I64(4 * i))
            store_lanes(b, address_of(b, start, byte, width), value, args[4], SHARED, width)
        return ctx.get_dummy_value()

    return types.void(sums, types.int64, types.int64, element, mask), codegen


def row_number(builder: Any, row: int, num_rows: Any) -> Any:
    """The LLVM value of a row's number, or of the last one's."""
    last = builder.sub(num_rows, I64(1))
    return builder.select(builder.icmp_signed("<", I64(row), last), I64(row), last)


def define_merge(rows: int, loads: int = LOADS_AT_ONCE) -> Any:
    """Device function that merges what the parts of a token's keys gave, in their order.

    ``partials`` is the address of the first part's first row; ``split_bytes`` further lies the next
    part's. The rows go to ``outputs`` in shared memory. A lane makes so many loads at once.
    """
    at_once, num_sums = splits_at_once(rows, loads), rows * LANE_ELEMENTS
    load_column, add_results = _define_load_column(rows), _define_add_results(rows, at_once)

    @device
    def split_places(partials, first, num_splits, split_bytes):
        index = lane_number() + first
        held = smaller(index, i32_lanes(num_splits - 1))
        return widened(held * split_bytes) + partials, index < num_splits

    @device
    def merge(partials, num_splits, split_bytes, num_rows, head_size, outputs):
        row_bytes = partial_bytes(head_size)
        top = f32_registers(rows, LOWEST)
        for first in range(0, num_splits, WARP):
            at, _ = split_places(partials, first, num_splits, split_bytes)
            top = largest_of_rows(load_column(at, row_bytes, num_rows), top)
        for part in range(0, head_size, WARP * LANE_ELEMENTS):
            total, sums = f32_registers(rows, 0.0), f32_registers(num_sums, 0.0)
            element = lane_number() * LANE_ELEMENTS + part
            end = row_bytes - PARTIAL_NUMBERS_AT - 4 * LANE_ELEMENTS
            offset = smaller(element * 4, i32_lanes(end)) + PARTIAL_NUMBERS_AT
            for first in range(0, num_splits, WARP):
                at, is_part = split_places(partials, first, num_splits, split_bytes)
                factors = powers_below(load_column(at, row_bytes, num_rows), top)
                factors = where(factors, is_part)
                weights = load_column(at + 4, row_bytes, num_rows)
                total = added_rows(total, scaled_rows(weights, factors))
                count = min(num_splits - first, WARP)
                for split in range(0, count, at_once):
                    sums = add_results(sums, factors, split, count,
                                       partials + first * split_bytes, split_bytes, row_bytes,
                                       num_rows, offset)  # fmt: skip
            sums = scaled_rows(sums, inverses(sums_of_lanes(total, 1)))
            store_merged(sums, outputs, 4 * padded_head(head_size), element,
                         element < padded_head(head_size))  # fmt: skip

    return merge
