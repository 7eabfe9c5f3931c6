"""Dot products of rows of super-blocks with tokens, in integers for as long as they are exact.

The scales of 256 weights are unpacked once, and products with a common factor are added before
they are multiplied by it. If the quants of a format lie in one of ``formats.block_orders``, the
activations lie in the same order, and no quant is moved between lanes.
"""

from __future__ import annotations

import numpy as np

from edgellama.kernels_cpu.formats.block_orders import UNITS
from edgellama.kernels_cpu.layouts import (
    BLOCK,
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
from edgellama.kernels_cpu.simd.codebooks import (
    inline_here,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.half_totals import (
    SECOND_UP,
    add_alternating,
    add_halves_alternating,
    add_neighbours,
    adds_up_halves,
    define_spread_to_lanes,
    dots_beside,
    products_beside,
    signed_words,
)
from edgellama.kernels_cpu.simd.integers import i32_zeros_like, keep_bits, to_f32
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
from edgellama.kernels_cpu.simd.sign_bits import (
    negate_where,
)
from edgellama.kernels_cpu.simd.tier_choice import by_tier
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
from edgellama.quant.formats import BLOCK_ORDERS, IN_ORDER, QUARTERS


def super_block_dots(code, tile):
    """Dot products of a tile's cells, rows of super-blocks."""
    step, finish = _define_step(code), _define_finish(code)
    if code.super_block.two_by_two:
        step = by_tier(adds_up_halves, _step_of_totals(code), step)
        finish = by_tier(adds_up_halves, _define_finish_totals(code), finish)
    num_bytes = code.format.block_bytes
    ask_ahead = define_ask_ahead(tile, num_bytes)

    def add_super_block(cell, sums, index, num_blocks):
        row, x, _y = cell
        return step(sums, row, row + index * num_bytes, index, x, num_blocks)

    def finish_cell(sums):
        return finish(sums)

    add_super_blocks, finish_cells = for_cells(add_super_block), for_cells(finish_cell)

    def dots(cells, ahead, num_blocks):
        zero = f32_zeros()
        sums = for_each_of(cells, (zero, f32_zeros_8()))
        for index in range(num_blocks // SUPER_BLOCK):
            ask_ahead(cells, ahead, index, f32_zeros_4())
            sums = add_super_blocks((cells, sums), index, num_blocks)
        return finish_cells((sums,))

    return device(dots)


def _define_finish(code):
    """A device function: the result of a row's sums, which ``_step_in_order`` or others made."""
    parts, order, has_minimum = code.super_block, code.numbers.order, code.has_minimum
    scale_unit = np.float32(parts.scale_unit * (BYTE_UNIT if order is None else PAIR_UNIT))
    minimum_unit = np.float32(-parts.minimum_unit)
    _, unit_of_second = UNITS[IN_ORDER if order is None else order]

    def finish(sums):
        products, minimums = sums
        second = scale_unit * unit_of_second()
        products = mul(products, splat_by_source(scale_unit, second, products))
        total = fold(products, f32_zeros_4())
        if has_minimum:
            minimums = fold(minimums, total)
            total = fma(minimums, splat_f32(minimum_unit, total), total)
        return sum_lanes(total)

    return device(finish)


def _define_finish_totals(code):
    """The same of those that ``_step_of_totals`` made."""
    unit = np.float32(code.super_block.scale_unit)

    def finish(sums):
        return sum_lanes(fold(sums[0], f32_zeros_4())) * unit

    return device(finish)


def _define_step(code):
    """A device function: products and minimums of a super-block, beside the sums so far."""
    if code.numbers.order is None:
        return _step_in_records(code)
    if code.numbers.has_signs:
        return _step_in_order(code, _define_dots_with_signs(code), 2)
    step = _step_in_order(code, _define_dots_of_two_vectors(code), 2)
    if code.numbers.order != QUARTERS or not code.has_minimum:
        return step
    return by_tier(
        adds_up_halves, _step_in_order(code, _define_dots_of_four_vectors(code), 4), step
    )


def _define_dots_of_two_vectors(code):
    """A device function: the products of two vectors of quants from a number on, with scales."""
    pieces_of, order, has_minimum = code.super_block.pieces, code.numbers.order, code.has_minimum
    spread_pairs = define_spread_pairs(BLOCK_ORDERS[order], code.super_block.scale_places)

    def dots_of(base, scales, quants, starts, half):
        like = f32_zeros()
        zeros, last = i32_zeros_like(like), half + lane_count() // 4
        low = dot4(zeros, pieces_of(base, half, like), load_bytes(quants + 16 * half, like))
        high = dot4(zeros, pieces_of(base, last, like), load_bytes(quants + 16 * last, like))
        packed = pack_pairs(low, high)
        if not has_minimum:
            packed = add_words(packed, starts + 8 * half)
        return to_f32(dot_pairs(packed, spread_pairs(scales, half, like)))

    return device(dots_of)


def _define_dots_with_signs(code):
    """The same of magnitudes, whose signs the activations take."""
    pieces_of, signs_of = code.super_block.pieces, code.super_block.signs
    order = BLOCK_ORDERS[code.numbers.order]
    spread_pairs = define_spread_pairs(order, code.super_block.scale_places)

    @device
    def products_of(base, quants, half):
        inline_here()
        like = f32_zeros()
        signed = negate_where(load_bytes(quants + 16 * half, like), signs_of(base, half, like))
        return dot4(i32_zeros_like(like), pieces_of(base, half, like), signed)

    def dots_of(base, scales, quants, starts, half):
        inline_here()
        like, last = f32_zeros(), half + lane_count() // 4
        packed = pack_pairs(products_of(base, quants, half), products_of(base, quants, last))
        return to_f32(dot_pairs(packed, spread_pairs(scales, half, like)))

    return device(dots_of)


def _define_dots_of_four_vectors(code):
    """The same of four, where eight products fit 16 bits and nothing is taken off."""
    pieces_of, order = code.super_block.pieces, BLOCK_ORDERS[code.numbers.order]
    spread_scales = define_spread_to_lanes(order, code.super_block.scale_places)

    @device
    def products_of(base, quants, half):
        like, last = f32_zeros(), half + 2
        return products_beside(
            pieces_of(base, half, like), load_bytes(quants + 16 * half, like),
            pieces_of(base, last, like), load_bytes(quants + 16 * last, like),
        )  # fmt: skip

    def dots_of(base, scales, quants, starts, half):
        products = add_neighbours(
            products_of(base, quants, half), products_of(base, quants, half + 4)
        )
        return to_f32(dot_pairs(products, spread_scales(scales, half)))

    return device(dots_of)


def _step_in_order(code, dots_of, vectors_each):
    """The step where quants follow one of ``BLOCK_ORDERS``: ``dots_of`` takes so many vectors."""
    parts, has_minimum, order = code.super_block, code.has_minimum, code.numbers.order
    scales_of, minimums_of, factors_of = parts.scales, parts.minimums, parts.factors
    offsets_of = _define_offsets(code)

    def step(sums, row, base, index, x, num_blocks):
        products, minimums = sums
        quants, factors, starts, x_sums = super_blocks_at(x, index, num_blocks, order)
        scale_factor, minimum_factor = factors_of(base)
        scales, like = scales_of(base, products), f32_zeros()
        scaled = mul(dots_of(base, scales, quants, starts, 0), load_f32(factors, like))
        halves_each = vectors_each * lane_count() // 4
        for half in range(halves_each, HALVES, halves_each):
            dots = dots_of(base, scales, quants, starts, half)
            x_scales = load_f32(factors + 16 // vectors_each * half, like)
            scaled = fma(dots, x_scales, scaled)
        if has_minimum:
            offsets = offsets_of(minimums_of(base, minimums), x_sums, minimums)
            minimums = fma(offsets, splat_f32(minimum_factor, minimums), minimums)
        return fma(scaled, splat_f32(scale_factor, products), products), minimums

    return device(step)


def _step_of_totals(code):
    """The step where half blocks are added up before they are scaled, without minimums."""
    scales_of, factors_of = code.super_block.scales, code.super_block.factors
    first, second, third, fourth = (_define_dots_of_two(code, number) for number in range(4))
    order = code.numbers.order

    def step(sums, row, base, index, x, num_blocks):
        products, minimums = sums
        quants, _, starts, x_sums = super_blocks_at(x, index, num_blocks, order)
        one, three = first(base, quants), third(base, quants)
        two, four = second(base, quants), fourth(base, quants)
        lower, upper = add_alternating(one, two), add_alternating(three, four)
        halves = add_words(add_halves_alternating(lower, upper), starts)
        dots = to_f32(dot_pairs(halves, signed_words(scales_of(base, products))))
        scaled = mul(dots, load_f32(x_sums + SUPER_SCALES_AT, products))
        return fma(scaled, splat_f32(factors_of(base)[0], products), products), minimums

    return device(step)


def _define_dots_of_two(code, number):
    """The products of the two blocks whose quants have their bytes in common."""
    read, order = code.super_block.two_by_two[number], BLOCK_ORDERS[code.numbers.order]
    block, largest = number // 2 * 4 + number % 2, code.numbers.largest
    low_at, high_at = (BLOCK * order.index(place) for place in (block, block + 2))
    high_bits = largest << SECOND_UP

    def dots_of_two(base, quants):
        like = f32_zeros()
        both = read(base, like)
        return dots_beside(
            keep_bits(both, largest), load_bytes(quants + low_at, like),
            keep_bits(both, high_bits), load_bytes(quants + high_at, like),
        )  # fmt: skip

    return device(dots_of_two)


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
