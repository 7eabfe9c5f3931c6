"""Dot products of rows of super-blocks with tokens: integers as long as they are exact.

The scales of 256 weights are unpacked once, and the products are added up under the factor that
they share. Where the quants lie as they are multiplied, in an order of blocks that the
activations follow, none of them is moved between lanes.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.formats.block_orders import UNITS
from edgellama.kernels_cpu.layouts import (
    HALVES,
    RECORD_BYTES,
    SCALE_AT,
    SUPER_BLOCK,
    SUPER_SCALES_AT,
)
from edgellama.kernels_cpu.matrices.prefetching import define_ask_ahead
from edgellama.kernels_cpu.matrices.record_products import define_product
from edgellama.kernels_cpu.matrices.side_by_side import for_cells, for_each_of
from edgellama.kernels_cpu.rows.activations import super_blocks_at
from edgellama.kernels_cpu.simd.arithmetic import fma, fold, mul, sum_lanes
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.integers import i32_zeros_like, to_f32
from edgellama.kernels_cpu.simd.scales import (
    BYTE_UNIT,
    PAIR_UNIT,
    add_words,
    define_spread_pairs,
    define_words_of_halves,
    dot_pairs,
    load_words,
    pack_pairs,
    splat_by_source,
    widen_signed,
)
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    f32_zeros_4,
    f32_zeros_8,
    lane_count,
    load_bytes,
    load_f32,
    splat_f32,
    width_of,
)
from edgellama.kernels_cpu.simd.weight_bytes import dot4
from edgellama.quant.formats import BLOCK_ORDERS, IN_ORDER


def super_block_dots(code, tile):
    """Dot products of a tile's cells, rows of super-blocks."""
    parts = code.super_block
    step = _step_in_records(code) if code.numbers.order is None else _step_in_order(code)
    unit = BYTE_UNIT if code.numbers.order is None else PAIR_UNIT
    scale_unit = np.float32(parts.scale_unit * unit)
    minimum_unit = np.float32(-parts.minimum_unit)
    order, num_bytes, has_minimum = code.numbers.order, code.format.block_bytes, code.has_minimum
    _, unit_of_second = UNITS[IN_ORDER if order is None else order]
    ask_ahead = define_ask_ahead(tile, num_bytes)

    def add_super_block(cell, sums, index, num_blocks):
        row, x, _y = cell
        return step(sums, row, row + index * num_bytes, index, x, num_blocks)

    def finish_cell(sums):
        products, minimums = sums
        second = scale_unit * unit_of_second()
        products = mul(products, splat_by_source(scale_unit, second, products))
        total = fold(products, f32_zeros_4())
        if has_minimum:
            minimums = fold(minimums, total)
            total = fma(minimums, splat_f32(minimum_unit, total), total)
        return sum_lanes(total)

    add_super_blocks, finish_cells = for_cells(add_super_block), for_cells(finish_cell)

    def dots(cells, ahead, num_blocks):
        zero = f32_zeros()
        sums = for_each_of(cells, (zero, f32_zeros_8()))
        for index in range(num_blocks // SUPER_BLOCK):
            ask_ahead(cells, ahead, index, f32_zeros_4())
            sums = add_super_blocks((cells, sums), index, num_blocks)
        return finish_cells((sums,))

    return device(dots)


def _step_in_order(code):
    """Products and minimums of a super-block whose quants follow one of ``BLOCK_ORDERS``."""
    parts, has_minimum = code.super_block, code.has_minimum
    pieces_of, scales_of, minimums_of = parts.pieces, parts.scales, parts.minimums
    order, factors_of, offsets_of = code.numbers.order, parts.factors, _define_offsets(code)
    spread_pairs = define_spread_pairs(BLOCK_ORDERS[order], parts.scale_places)

    @device
    def dots_of(base, scales, quants, starts, half):
        """The products of two vectors of quants from number ``half`` on, with their scales."""
        like = f32_zeros()
        zeros, last = i32_zeros_like(like), half + lane_count() // 4
        low = dot4(zeros, pieces_of(base, half, like), load_bytes(quants + 16 * half, like))
        high = dot4(zeros, pieces_of(base, last, like), load_bytes(quants + 16 * last, like))
        packed = pack_pairs(low, high)
        if not has_minimum:
            packed = add_words(packed, starts + 8 * half)
        return to_f32(dot_pairs(packed, spread_pairs(scales, half, like)))

    def step(sums, row, base, index, x, num_blocks):
        products, minimums = sums
        quants, factors, starts, x_sums = super_blocks_at(x, index, num_blocks, order)
        scale_factor, minimum_factor = factors_of(base)
        scales, pieces, like = scales_of(base, products), lane_count() // 4, f32_zeros()
        scaled = mul(dots_of(base, scales, quants, starts, 0), load_f32(factors, like))
        for half in range(2 * pieces, HALVES, 2 * pieces):
            dots = dots_of(base, scales, quants, starts, half)
            scaled = fma(dots, load_f32(factors + 8 * half, like), scaled)
        if has_minimum:
            offsets = offsets_of(minimums_of(base, minimums), x_sums, minimums)
            minimums = fma(offsets, splat_f32(minimum_factor, minimums), minimums)
        return fma(scaled, splat_f32(scale_factor, products), products), minimums

    return device(step)


def _define_offsets(code):
    """A device function: minimums of a super-block times the sums of its half blocks, by blocks."""
    words_of_halves = define_words_of_halves(code.super_block.minimum_places)

    def offsets_of(minimums, x_sums, like):
        dots = dot_pairs(load_words(x_sums, like), words_of_halves(minimums))
        return mul(to_f32(dots), load_f32(x_sums + SUPER_SCALES_AT, like))

    return device(offsets_of)


def _step_in_records(code):
    """Products of a super-block with scales for 32 weights and no minimum, block by block."""
    parts, product = code.super_block, define_product(code)
    scales_of, factors_of = parts.scales, parts.factors

    def step(sums, row, base, index, x, num_blocks):
        products, minimums = sums
        scales, scaled = scales_of(base, products), f32_zeros()
        width = width_of(scaled)
        for i in range(0, SUPER_BLOCK, width // 4):
            block = index * SUPER_BLOCK + i
            record = x + block * RECORD_BYTES
            x_scale = load_f32(record + SCALE_AT * width, scaled)
            dots = mul(to_f32(product(row, block, record, scaled)), x_scale)
            scaled = fma(dots, widen_signed(scales, i, 1, scaled), scaled)
        return fma(scaled, splat_f32(factors_of(base)[0], products), products), minimums

    return device(step)
