"""Register tiles of dot products over a group of weights, and the step from sums to results.

The sums are exact integers. They start at minus ``centre`` times the sum of the activations, which
subtracts ``centre`` from every weight. On tiers that add byte products in pairs, sums have 16 bits
modulo 2**16 over the whole group, so only the final sum of a lane must fit; ``PanelCode`` ensures
that. Sums of eight-bit weights have 32 bits on every tier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.arithmetic import multiply_add
from edgellama.kernels_cpu.simd.compiler_barriers import unknown
from edgellama.kernels_cpu.simd.tiles import Tile, offset_by, tile_zeros, update_tile
from edgellama.kernels_cpu.simd.vectors import (
    F32,
    I8,
    I16,
    I32,
    I64,
    constant,
    llvm_vector,
    load_at,
    splat,
    tier_of,
)
from edgellama.kernels_cpu.simd.weight_bytes import (
    add_pairs,
    bias_of,
    dot4_into,
)
from edgellama.kernels_cpu.simd.whole_registers import multiply_bytes

WORD = 4
"""Bytes of the four weights that a lane takes at once."""
BITS = {I8: 8, I16: 16, I32: 32, F32: 32}


def has_sums_of_pairs(tier: Tier, is_wide: bool) -> bool:
    """Whether sums have 16 bits, and each of a lane's two adds half of its products."""
    return tier.dot4 == "pairs" and not is_wide


def token_addresses(builder: Any, address: Any, stride: Any, num_tokens: int) -> list[Any]:
    """Where each token's row lies, from few registers: x86 adds one stride or two for nothing."""
    bases = [offset_by(builder, address, stride, t) for t in range(0, num_tokens, 3)]
    return [offset_by(builder, bases[t // 3], stride, t % 3) for t in range(num_tokens)]


def _addresses_in_loop(
    builder: Any, address: Any, stride: Any, twice: Any, num_tokens: int
) -> list[Any]:
    """The same where ``twice`` is a number of its own: no address is made of the one before it."""
    steps, thrice = [ir.Constant(I64, 0), stride, twice], builder.add(stride, twice)
    bases = [offset_by(builder, address, thrice, t // 3) for t in range(num_tokens)]
    return [builder.add(base, steps[t % 3]) for t, base in enumerate(bases)]


def row_vectors(builder: Any, address: Any, vector: Any, count: int) -> list[Any]:
    """So many vectors that lie behind each other."""
    num_bytes = vector.count * BITS[vector.element] // 8
    return [load_at(builder, address, vector, num_bytes * v) for v in range(count)]


def splat_word(builder: Any, address: Any, vector: Any) -> Any:
    """The word at an address, as often as it fits into a vector of this type."""
    lanes = vector.count * BITS[vector.element] // 32
    return builder.bitcast(splat(builder, load_at(builder, address, I32), lanes), vector)


def taken_off(tier: Tier, centre: int, *, is_wide: bool) -> int:
    """What products subtract from every quant on a tier: the format's ``centre``, or the bias."""
    return bias_of(tier) if is_wide else centre


def define_start_sums(centre: int, is_wide: bool) -> Callable[..., Any]:
    """An intrinsic: integer sums in the shape of ``tile``, as ``starts`` has them of each token."""

    @intrinsic
    def start_sums(typingctx, tile, starts, stride):
        tier, shape = tier_of(typingctx), (tile.num_vectors, tile.num_tokens)
        sums = Tile("i32", tile.lanes, *shape)
        if has_sums_of_pairs(tier, is_wide):
            sums = Tile("i16", 2 * tile.lanes, *shape)
        subtracted = taken_off(tier, centre, is_wide=is_wide)

        def codegen(ctx, b, sig, args):
            value = tile_zeros(sums)
            if not subtracted:
                return value
            vector = llvm_vector(sums.kind, sums.lanes)
            factor = constant(sums.kind, [subtracted] * sums.lanes)
            addresses = token_addresses(b, args[1], args[2], tile.num_tokens)
            words = [splat_word(b, at, vector) for at in addresses]
            if tier.dot4 == "unsigned":
                # LLVM would else multiply before it repeats, which is a shuffle then, not a load.
                words = [unknown(b, word, "=v,0") for word in words]
            tokens = [b.mul(word, factor) for word in words]
            return update_tile(b, sums, value, lambda v, t, old: tokens[t])

        return sums(tile, types.int64, types.int64), codegen

    return start_sums


def _add_products(
    builder: Any,
    sums: Tile,
    value: Any,
    weights: list[Any],
    addresses: list[Any],
    *,
    tier: Tier,
    is_wide: bool,
) -> Any:
    """A tile of sums plus products of vectors of weights with the tokens' words."""
    tokens = [splat_word(builder, at, weights[0].type) for at in addresses]

    def cell(v: int, t: int, old: Any) -> Any:
        if not has_sums_of_pairs(tier, is_wide):
            return dot4_into(builder, old, weights[v], tokens[t], tier, is_wide=is_wide)
        return builder.add(old, multiply_bytes(builder, weights[v], tokens[t], tier))

    return update_tile(builder, sums, value, cell)


def _define_add_word(is_wide: bool) -> Callable[..., Any]:
    @intrinsic
    def add_word(typingctx, sums, panel, x, x_stride, twice):
        tier = tier_of(typingctx)
        bytes_type = llvm_vector("i8", WORD * tier.lanes)

        def codegen(ctx, b, sig, args):
            value, panel, x, stride, twice = args
            weights = row_vectors(b, panel, bytes_type, sums.num_vectors)
            addresses = _addresses_in_loop(b, x, stride, twice, sums.num_tokens)
            return _add_products(b, sums, value, weights, addresses, tier=tier, is_wide=is_wide)

        return sums(sums, *[types.int64] * 4), codegen

    return add_word


def _define_add_weights(is_wide: bool) -> Callable[..., Any]:
    @intrinsic
    def add_weights(typingctx, sums, weights, x, x_stride):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            value, weights, x, stride = args
            addresses = token_addresses(b, x, stride, sums.num_tokens)
            return _add_products(b, sums, value, [weights], addresses, tier=tier, is_wide=is_wide)

        return sums(sums, weights, types.int64, types.int64), codegen

    return add_weights


def _define_finish_sums(is_wide: bool) -> Callable[..., Any]:
    @intrinsic
    def finish_sums(typingctx, sums):
        tier = tier_of(typingctx)
        dots = Tile("i32", tier.lanes, sums.num_vectors, sums.num_tokens)

        def codegen(ctx, b, sig, args):
            if not has_sums_of_pairs(tier, is_wide):
                return args[0]

            def cell(v: int, t: int, old: Any) -> Any:
                return add_pairs(b, b.extract_value(args[0], t * sums.num_vectors + v), tier)

            return update_tile(b, dots, tile_zeros(dots), cell)

        return dots(sums), codegen

    return finish_sums


ADD_WORD = (_define_add_word(False), _define_add_word(True))
"""Sums += products of a word of weights of each row, from memory, with a word of each token."""
ADD_WEIGHTS = (_define_add_weights(False), _define_add_weights(True))
"""The same for a tile of one vector, from a register."""
FINISH_SUMS = (_define_finish_sums(False), _define_finish_sums(True))


def _define_scale_tile(has_minimum: bool) -> Callable[..., Any]:
    @intrinsic
    def scale_tile(typingctx, tile, dots, scale, minimum, x_scale, scale_stride, x_sum, sum_stride):
        tier, vector = tier_of(typingctx), llvm_vector("f32", tile.lanes)

        def codegen(ctx, b, sig, args):
            value, integers, scale, minimum, x_scale, scale_stride, x_sum, sum_stride = args
            scales = row_vectors(b, scale, vector, tile.num_vectors)
            x_scales = [
                splat_word(b, at, vector)
                for at in token_addresses(b, x_scale, scale_stride, tile.num_tokens)
            ]
            if has_minimum:
                minimums = row_vectors(b, minimum, vector, tile.num_vectors)
                x_sums = [
                    splat_word(b, at, vector)
                    for at in token_addresses(b, x_sum, sum_stride, tile.num_tokens)
                ]

            def cell(v: int, t: int, old: Any) -> Any:
                dot = b.sitofp(b.extract_value(integers, t * tile.num_vectors + v), vector)
                scaled = multiply_add(b, b.fmul(dot, scales[v]), x_scales[t], old, tier)
                if not has_minimum:
                    return scaled
                return multiply_add(b, minimums[v], x_sums[t], scaled, tier)

            return update_tile(b, tile, value, cell)

        return tile(tile, dots, *[types.int64] * 6), codegen

    return scale_tile


SCALE_TILE = (_define_scale_tile(False), _define_scale_tile(True))
"""tile += dots * scale * x_scale per row lane and token; the second also minimum * x_sum."""
