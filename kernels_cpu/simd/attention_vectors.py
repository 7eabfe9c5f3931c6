"""Vector operations for attention: numbers of the KV cache, pairs of 16-bit products, powers of 2.

A 32-bit lane holds two neighbouring factors as signed 16-bit integers. Every x86 tier multiplies
two such vectors and adds the products of each pair with one instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.arithmetic import multiply_add
from edgellama.kernels_cpu.simd.tiles import Tile, offset_by, tile_zeros, update_tile
from edgellama.kernels_cpu.simd.vectors import (
    F32,
    I32,
    I64,
    Vector,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    splat,
    tier_of,
)


def _define_small_integers(widen: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A load of one byte a lane, turned into f32 by ``widen(builder, bytes)``."""

    @intrinsic
    def load(typingctx, address, like):
        def codegen(ctx, b, sig, args):
            wide = widen(b, load_at(b, args[0], llvm_vector("i8", like.lanes)))
            return b.sitofp(wide, llvm_vector("f32", like.lanes))

        return Vector("f32", like.lanes)(types.int64, like), codegen

    return load


def _signed_bytes(builder: Any, stored: Any) -> Any:
    return builder.sext(stored, llvm_vector("i32", stored.type.count))


def _low_nibbles(builder: Any, stored: Any) -> Any:
    lanes = stored.type.count
    wide = builder.zext(stored, llvm_vector("i32", lanes))
    low = builder.and_(wide, constant("i32", [15] * lanes))
    return builder.sub(low, constant("i32", [8] * lanes))


def _high_nibbles(builder: Any, stored: Any) -> Any:
    lanes = stored.type.count
    wide = builder.zext(stored, llvm_vector("i32", lanes))
    high = builder.lshr(wide, constant("i32", [4] * lanes))
    return builder.sub(high, constant("i32", [8] * lanes))


load_signed_bytes, load_low_nibbles, load_high_nibbles = map(
    _define_small_integers, (_signed_bytes, _low_nibbles, _high_nibbles)
)


@intrinsic
def fma_panel(typingctx, tile, first, second, x, x_stride):
    """Add the two vectors of a panel times one f32 of each row of the tile."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        value, *panel, x_address, stride = args
        rows = [
            splat(b, load_at(b, offset_by(b, x_address, stride, t), F32), tile.lanes)
            for t in range(tile.num_tokens)
        ]
        return update_tile(
            b, tile, value, lambda v, t, old: multiply_add(b, panel[v], rows[t], old, tier)
        )

    return tile(tile, first, second, types.int64, types.int64), codegen


@intrinsic
def add_scaled_tile(typingctx, tile, part, first, second):
    """Add a tile whose two vectors of every row are scaled lane by lane."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        value, part_value, *scales = args

        def cell(v: int, t: int, old: Any) -> Any:
            new = b.extract_value(part_value, t * tile.num_vectors + v)
            return multiply_add(b, new, scales[v], old, tier)

        return update_tile(b, tile, value, cell)

    return tile(tile, part, first, second), codegen


@intrinsic(prefer_literal=True)
def i32_tile(typingctx, num_vectors, num_tokens):
    """A tile of integer zeros at full vector width; the sizes are literals."""
    lanes = tier_of(typingctx).lanes
    tile = Tile("i32", lanes, num_vectors.literal_value, num_tokens.literal_value)
    return tile(num_vectors, num_tokens), lambda ctx, b, sig, args: tile_zeros(tile)


ROUNDING = 12582912.0
"""Added to an f32 of magnitude below 2**15 leaves its nearest whole number in the low 16 bits."""


def _rounded_product(builder: Any, values: Any, factors: Any, tier: Tier) -> Any:
    """i32 lanes whose low halves are ``values * factors`` as signed integers."""
    lanes = values.type.count
    shifted = multiply_add(builder, values, factors, constant("f32", [ROUNDING] * lanes), tier)
    return builder.bitcast(shifted, llvm_vector("i32", lanes))


@intrinsic
def store_word_pairs(typingctx, address, first, second, factors):
    """Two vectors times ``factors``, rounded: ``first`` in the low halves of the lanes.

    Products reach at most 32767.
    """
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        address, first, second, factors = args
        lanes = first.type.count
        low = _rounded_product(b, first, factors, tier)
        low = b.and_(low, constant("i32", [0xFFFF] * lanes))
        high = _rounded_product(b, second, factors, tier)
        words = b.or_(low, b.shl(high, constant("i32", [16] * lanes)))
        b.store(words, pointer(b, address, words.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, first, second, factors), codegen


@intrinsic
def store_words(typingctx, address, v, factors):
    """Lanes times ``factors``, at most 32767, rounded: 16-bit integers side by side."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        address, values, factors = args
        rounded = _rounded_product(b, values, factors, tier)
        words = b.trunc(rounded, llvm_vector("i16", v.lanes))
        b.store(words, pointer(b, address, words.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, v, factors), codegen


def _multiply_pairs(builder: Any, accumulator: Any, x: Any, y: Any) -> Any:
    """Add x[2i] y[2i] + x[2i+1] y[2i+1] to lane i, in words that LLVM knows as one instruction."""
    lanes = accumulator.type.count
    wide = llvm_vector("i32", 2 * lanes)
    products = builder.mul(builder.sext(x, wide), builder.sext(y, wide))
    even, odd = (shuffle(builder, products, products, range(j, 2 * lanes, 2)) for j in (0, 1))
    return builder.add(accumulator, builder.add(even, odd))


@intrinsic
def multiply_pairs_tile(typingctx, tile, panel, x, x_stride):
    """Add two steps: ``panel`` holds a pair of factors a lane, ``x`` a pair for each row."""

    def codegen(ctx, b, sig, args):
        value, panel_address, x_address, stride = args
        words = llvm_vector("i16", 2 * tile.lanes)
        vectors = [
            load_at(b, panel_address, words, 4 * tile.lanes * v) for v in range(tile.num_vectors)
        ]
        rows = []
        for t in range(tile.num_tokens):
            pair = load_at(b, offset_by(b, x_address, stride, t), I32)
            rows.append(b.bitcast(splat(b, pair, tile.lanes), words))
        return update_tile(
            b, tile, value, lambda v, t, old: _multiply_pairs(b, old, vectors[v], rows[t])
        )

    return tile(tile, *[types.int64] * 3), codegen


def _floats(builder: Any, tile: Tile, value: Any, index: int) -> Any:
    """One cell as f32."""
    cell = builder.extract_value(value, index)
    if tile.kind == "f32":
        return cell
    return builder.sitofp(cell, llvm_vector("f32", tile.lanes))


def _lane_scales(builder: Any, tile: Tile, address: Any) -> list[Any]:
    vector = llvm_vector("f32", tile.lanes)
    return [load_at(builder, address, vector, 4 * tile.lanes * v) for v in range(tile.num_vectors)]


def _row_scale(builder: Any, tile: Tile, address: Any, row: int) -> Any:
    return splat(builder, load_at(builder, address, F32, 4 * row), tile.lanes)


@intrinsic
def store_scaled_tile(typingctx, tile, address, stride, lane_scales, row_scales):
    """Write the tile as f32, times a scale of each lane and one of each row."""

    def codegen(ctx, b, sig, args):
        value, address, stride, lane_at, row_at = args
        lanes = _lane_scales(b, tile, lane_at)
        for t in range(tile.num_tokens):
            row = _row_scale(b, tile, row_at, t)
            for v in range(tile.num_vectors):
                cell = b.fmul(_floats(b, tile, value, t * tile.num_vectors + v), lanes[v])
                at = b.add(offset_by(b, address, stride, t), ir.Constant(I64, 4 * tile.lanes * v))
                b.store(b.fmul(cell, row), pointer(b, at, cell.type), align=1)
        return ctx.get_dummy_value()

    return types.void(tile, *[types.int64] * 4), codegen


@intrinsic
def fold_tile(typingctx, tile, address, stride, shrink, gain):
    """memory = memory * shrink + tile * gain, with a factor of each kind for every row."""
    return _fold(typingctx, tile, scaled=False)


@intrinsic
def fold_scaled_tile(typingctx, tile, address, stride, shrink, gain, lane_scales):
    """The same where the tile has a scale of each lane besides."""
    return _fold(typingctx, tile, scaled=True)


def _fold(typing_context: Any, tile: Tile, scaled: bool) -> Any:
    tier = tier_of(typing_context)

    def codegen(ctx, b, sig, args):
        value, address, stride, shrink_at, gain_at, *lane_at = args
        scales = _lane_scales(b, tile, lane_at[0]) if scaled else None
        vector = llvm_vector("f32", tile.lanes)
        for t in range(tile.num_tokens):
            shrink, gain = (_row_scale(b, tile, at, t) for at in (shrink_at, gain_at))
            for v in range(tile.num_vectors):
                cell = _floats(b, tile, value, t * tile.num_vectors + v)
                if scales is not None:
                    cell = b.fmul(cell, scales[v])
                at = b.add(offset_by(b, address, stride, t), ir.Constant(I64, 4 * tile.lanes * v))
                old = b.fmul(load_at(b, at, vector), shrink)
                new = multiply_add(b, cell, gain, old, tier)
                b.store(new, pointer(b, at, vector), align=1)
        return ctx.get_dummy_value()

    return types.void(tile, *[types.int64] * (5 if scaled else 4)), codegen


POWER_SERIES = (
    1.3264726899226017e-3,
    9.671512660565665e-3,
    5.550733744244169e-2,
    2.4022242084919135e-1,
    6.931469775984711e-1,
    1.0,
)
"""Minimax polynomial of 2**x on [-1/2, 1/2], to 9e-8 relative; exact at 0."""


@intrinsic
def exp2(typingctx, x):
    """2**x to about 2e-7 relative for x up to 126; 2**-126 for all x below, minus infinity too."""
    lanes, tier = x.lanes, tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        def each(value):
            return constant("f32", [value] * lanes)

        clamped = b.select(b.fcmp_ordered(">", args[0], each(-126.0)), args[0], each(-126.0))
        magic = b.fadd(clamped, each(ROUNDING))
        rest = b.fsub(clamped, b.fsub(magic, each(ROUNDING)))
        value = each(POWER_SERIES[0])
        for coefficient in POWER_SERIES[1:]:
            value = multiply_add(b, value, rest, each(coefficient), tier)
        integers = llvm_vector("i32", lanes)
        # The whole part stands in the low bits of ``magic``; shifted, it is added to the exponent.
        exponent = b.shl(b.bitcast(magic, integers), constant("i32", [23] * lanes))
        return b.bitcast(b.add(b.bitcast(value, integers), exponent), args[0].type)

    return x(x), codegen


@intrinsic
def zero_from(typingctx, x, count):
    """Zero in lane ``count`` and all above."""

    def codegen(ctx, b, sig, args):
        limit = splat(b, b.trunc(args[1], I32), x.lanes)
        keep = b.icmp_signed("<", constant("i32", range(x.lanes)), limit)
        return b.select(keep, args[0], constant("f32", [0.0] * x.lanes))

    return x(x, types.int64), codegen
