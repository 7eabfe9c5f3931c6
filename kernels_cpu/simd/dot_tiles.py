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
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.tier_choice import by_tier
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
    pointer,
    shuffle,
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


def _has_sums_of_pairs(tier: Tier, is_wide: bool) -> bool:
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
        if _has_sums_of_pairs(tier, is_wide):
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
                words = [_unknown(b, word, "=v,0") for word in words]
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
        if not _has_sums_of_pairs(tier, is_wide):
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
            if not _has_sums_of_pairs(tier, is_wide):
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


def _unknown(builder: Any, value: Any, registers: str = "=r,0") -> Any:
    """A number, or a vector, of which the compiler does not know how it was made."""
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", registers, [value], side_effect=False)


@intrinsic
def unknown_twice(typingctx, number):
    """Twice a number, which the compiler takes for a number of its own."""
    return number(number), lambda ctx, b, sig, args: _unknown(b, b.add(args[0], args[0]))


def _define_hidden(is_wide: bool) -> Callable[..., Any]:
    @intrinsic
    def hidden(typingctx, count):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            # Moved signs and magnitudes need more registers than a loop has left beside the tile.
            return args[0] if is_wide and tier.dot4 == "pairs" else _unknown(b, args[0])

        return types.int64(types.int64), codegen

    return hidden


HIDDEN = (_define_hidden(False), _define_hidden(True))
"""A number that the compiler does not know, so that it leaves a loop over it as it is.

Unrolled, the loads of all words come first, and the tile is spilled to make room for them. As all
such pairs here: for weights of up to seven bits, and for those that take eight.
"""


@intrinsic
def keep_order(typingctx):
    """Loads before this place stay before it, and those behind it stay behind it."""

    def codegen(ctx, b, sig, args):
        b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
        return ctx.get_dummy_value()

    return types.void(), codegen


def _has_many_registers(tier: Tier) -> bool:
    """Whether a tile's sums, its f32 numbers and one word of each row fit the registers."""
    return tier.lanes == 16


def _define_add_words(add_word: Callable[..., Any], num_words: int) -> Callable[..., Any]:
    """A device function: ``add_word`` of so many words, a power of two, written out in order."""
    if num_words == 1:

        def add_words(sums, panel, step, x, x_stride, twice):
            sums = add_word(sums, panel, x, x_stride, twice)
            keep_order()
            return sums

    else:
        half_words = num_words // 2
        add_half = _define_add_words(add_word, half_words)

        def add_words(sums, panel, step, x, x_stride, twice):
            sums = add_half(sums, panel, step, x, x_stride, twice)
            second_x = x + half_words * WORD
            return add_half(sums, panel + half_words * step, step, second_x, x_stride, twice)

    return device(add_words)


def define_group_dots(num_words: int, centre: int, is_wide: bool) -> Callable[..., Any]:
    """A device function: dot products over ``num_words`` words of weights, less ``centre``.

    ``panel`` has four weights of each row in a vector's lane and a word every ``step`` bytes,
    ``x`` four quants a word; ``starts`` are the tokens' words of ``store_starts``. The result
    has the shape of ``tile``. With many registers the words are written out, each behind the one
    before it: a loop over so few costs Intel's processors up to a tenth.
    """
    start, add_word = define_start_sums(centre, is_wide), ADD_WORD[is_wide]
    finish, hidden = FINISH_SUMS[is_wide], HIDDEN[is_wide]

    def group_dots(tile, panel, step, x, x_stride, starts, start_stride):
        sums, twice = start(tile, starts, start_stride), unknown_twice(x_stride)
        for j in range(hidden(num_words)):
            sums = add_word(sums, panel + j * step, x + WORD * j, x_stride, twice)
        return finish(sums)

    add_words = _define_add_words(add_word, num_words)

    def group_dots_written_out(tile, panel, step, x, x_stride, starts, start_stride):
        sums, twice = start(tile, starts, start_stride), unknown_twice(x_stride)
        # One turn: the addresses that a loop needs are computed before it, and stay in registers.
        for j in range(0, hidden(num_words), num_words):
            sums = add_words(sums, panel + j * step, step, x + WORD * j, x_stride, twice)
        return finish(sums)

    return by_tier(_has_many_registers, group_dots_written_out, group_dots)


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


def _sums_of_places(builder: Any, quants: Any) -> Any:
    """Of 16 signed bytes, the sums of those at each place of a word."""
    value = builder.sext(quants, llvm_vector("i16", 16))
    for width in (8, 4):
        value = builder.add(
            shuffle(builder, value, value, range(width)),
            shuffle(builder, value, value, range(width, 2 * width)),
        )
    return value


@intrinsic
def store_starts(typingctx, low, high, low_total, high_total, block_at, low_at, high_at):
    """What sums of products with a block's halves of 16 bytes start at, for a centre of one.

    A word each for the whole block and its halves: the sum of the bytes, ``total`` as f32, negated;
    or two sums of 16 bits, as the tier adds up.
    """
    in_pairs = _has_sums_of_pairs(tier_of(typingctx), is_wide=False)

    def codegen(ctx, b, sig, args):
        if in_pairs:
            halves = [_pairs_of_places(b, quants) for quants in args[:2]]
        else:
            halves = [b.fptosi(b.fneg(total), I32) for total in args[2:4]]
        for at, word in zip(args[4:], (b.add(*halves), *halves), strict=True):
            b.store(word, pointer(b, at, word.type), align=1)
        return ctx.get_dummy_value()

    return types.void(low, high, low_total, high_total, *[types.int64] * 3), codegen


def _pairs_of_places(builder: Any, quants: Any) -> Any:
    """The sums at the first two and at the last two places of words, negated."""
    negated = builder.sub(constant("i16", [0] * 4), _sums_of_places(builder, quants))
    even, odd = (shuffle(builder, negated, negated, places) for places in ((0, 2), (1, 3)))
    return builder.add(even, odd)
