"""Products of bytes in the tile registers of AMX, where a tier has them.

A tile register holds a small matrix: here the weights of ``lanes`` rows, the activations of
``TILE_REGISTER_TOKENS`` tokens, or the sums of their products. One instruction multiplies two of
them. The sums reach vector registers by way of memory. How a kernel cuts its matrices is left to
``gemm``. The instructions: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
chapter 18, "Programming with Intel Advanced Matrix Extensions".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.layouts import GEMM_TOKENS, PANEL_VECTORS, TILE_REGISTER_TOKENS
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.arithmetic import multiply_add
from edgellama.kernels_cpu.simd.dot_tiles import row_vectors, splat_word, taken_off, token_addresses
from edgellama.kernels_cpu.simd.tiles import Tile, tile_zeros
from edgellama.kernels_cpu.simd.vectors import (
    I8,
    I64,
    call_llvm,
    constant,
    llvm_vector,
    load_at,
    pointer,
    tier_of,
)

ROW_BYTES = 64
"""Of a row of a tile register, at most."""
CONFIG_BYTES = 64
WIDTHS_AT, ROWS_AT = 16, 48
"""Where the configuration has the bytes of a row of each tile register, two bytes each, and the
number of its rows, one byte each. The first byte is the palette."""
PALETTE = 1
SUMS, ACTIVATIONS, WEIGHTS = (0, 1), 2, (3, 4)
"""Numbers of the tile registers: of sums and of weights as many as a panel has vectors."""
DOT_VECTORS = PANEL_VECTORS * TILE_REGISTER_TOKENS
DOT_BYTES = DOT_VECTORS * ROW_BYTES
"""Of the sums of a group of weights, in memory."""
DOTS_ROOM = 2 * DOT_VECTORS
"""Vectors of the sums of two groups."""


def has_byte_tiles(tier: Tier) -> bool:
    """Whether long steps multiply in tile registers."""
    return tier.has_byte_tiles


@intrinsic
def gemm_tokens(typingctx):
    """Tokens of one tile of products of blocks with many tokens, as a compile-time constant."""
    count = _tokens_of(tier_of(typingctx))
    return types.int64(), lambda ctx, b, sig, args: ir.Constant(I64, count)


@intrinsic
def block_tile(typingctx):
    """The f32 zeros that a panel's products with a tile of tokens are added to."""
    tier = tier_of(typingctx)
    tile = Tile("f32", tier.lanes, PANEL_VECTORS, _tokens_of(tier))
    return tile(), lambda ctx, b, sig, args: tile_zeros(tile)


def _tokens_of(tier: Tier) -> int:
    return TILE_REGISTER_TOKENS if tier.has_byte_tiles else GEMM_TOKENS


def define_as_panel_bytes(centre: int, is_wide: bool) -> Callable[..., Any]:
    """An intrinsic: a vector of quants as a panel holds them.

    Sums in tile registers start at zero, so that the ``centre`` is taken off the quants, which
    become signed bytes. Elsewhere sums start at what it takes off them.
    """

    @intrinsic
    def as_panel_bytes(typingctx, quants):
        tier = tier_of(typingctx)
        subtracted = taken_off(tier, centre, is_wide=is_wide)

        def codegen(ctx, b, sig, args):
            if not tier.has_byte_tiles:
                return args[0]
            return b.sub(args[0], constant("i8", [subtracted] * quants.lanes))

        return quants(quants), codegen

    return as_panel_bytes


def _config(num_words: int) -> bytes:
    """Rows and bytes of each tile register, for groups of so many words of four weights."""
    shapes = dict.fromkeys(SUMS, (TILE_REGISTER_TOKENS, ROW_BYTES))
    shapes |= dict.fromkeys(WEIGHTS, (num_words, ROW_BYTES))
    shapes[ACTIVATIONS] = (TILE_REGISTER_TOKENS, 4 * num_words)
    config = bytearray(CONFIG_BYTES)
    config[0] = PALETTE
    for number, (rows, row_bytes) in shapes.items():
        at = WIDTHS_AT + 2 * number
        config[at : at + 2] = row_bytes.to_bytes(2, "little")
        config[ROWS_AT + number] = rows
    return bytes(config)


def define_tile_setting(num_words: int) -> Callable[..., Any]:
    """An intrinsic: shape the tile registers for groups of so many words; ``room``: 64 bytes."""

    @intrinsic
    def set_tiles(typingctx, room):
        has_tiles = tier_of(typingctx).has_byte_tiles

        def codegen(ctx, b, sig, args):
            if has_tiles:
                config = constant("i8", list(_config(num_words)))
                b.store(config, pointer(b, args[0], config.type), align=1)
                _tile_instruction(b, "ldtilecfg", pointer(b, args[0], I8))
            return ctx.get_dummy_value()

        return types.void(types.int64), codegen

    return set_tiles


@intrinsic
def release_tiles(typingctx):
    """Leave the tile registers as the system wants to find them when it switches threads."""
    has_tiles = tier_of(typingctx).has_byte_tiles

    def codegen(ctx, b, sig, args):
        if has_tiles:
            _tile_instruction(b, "tilerelease")
        return ctx.get_dummy_value()

    return types.void(), codegen


@intrinsic
def leave_dots(typingctx, panel, step, x, x_stride, dots):
    """The products of a group of weights with the tokens of a tile, summed up in memory.

    ``panel`` has a word of each row every ``step`` bytes, ``x`` a token every ``x_stride``. At
    ``dots`` the sums take ``DOT_BYTES``: for one token after the other, the panel's vectors. The
    tile registers must have been shaped for as many words as the group has.
    """

    def codegen(ctx, b, sig, args):
        panel, step, x, stride, dots = args
        _tile_instruction(b, "tileloadd64", I8(ACTIVATIONS), pointer(b, x, I8), stride)
        for v, (sums, weights) in enumerate(zip(SUMS, WEIGHTS, strict=True)):
            at = b.add(panel, ir.Constant(I64, v * ROW_BYTES))
            _tile_instruction(b, "tilezero", I8(sums))
            _tile_instruction(b, "tileloadd64", I8(weights), pointer(b, at, I8), step)
            _tile_instruction(b, "tdpbssd", I8(sums), I8(ACTIVATIONS), I8(weights))
            to = pointer(b, b.add(dots, ir.Constant(I64, v * ROW_BYTES)), I8)
            _tile_instruction(b, "tilestored64", I8(sums), to, I64(PANEL_VECTORS * ROW_BYTES))
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


def _define_scale_dots(has_minimum: bool) -> Callable[..., Any]:
    @intrinsic
    def scale_dots(typingctx, tile, dots, scale, minimum, x_scale, scale_stride, x_sum, sum_stride):
        tier, vector = tier_of(typingctx), llvm_vector("f32", tile.lanes)
        integers = llvm_vector("i32", tile.lanes)

        def codegen(ctx, b, sig, args):
            value, dots, scale, minimum, x_scale, scale_stride, x_sum, sum_stride = args
            scales = row_vectors(b, scale, vector, tile.num_vectors)
            scales_at = token_addresses(b, x_scale, scale_stride, tile.num_tokens)
            if has_minimum:
                minimums = row_vectors(b, minimum, vector, tile.num_vectors)
                sums_at = token_addresses(b, x_sum, sum_stride, tile.num_tokens)

            for t in range(tile.num_tokens):
                factor = splat_word(b, scales_at[t], vector)
                x_total = splat_word(b, sums_at[t], vector) if has_minimum else None
                for v in range(tile.num_vectors):
                    number = t * tile.num_vectors + v
                    dot = b.sitofp(load_at(b, dots, integers, ROW_BYTES * number), vector)
                    scaled = b.fmul(dot, scales[v])
                    old = _at_its_place(b, b.extract_value(value, number))
                    new = multiply_add(b, scaled, factor, old, tier)
                    if has_minimum:
                        new = multiply_add(b, minimums[v], x_total, new, tier)
                    value = b.insert_value(value, _at_its_place(b, new), number)
            return value

        return tile(tile, *[types.int64] * 7), codegen

    return scale_dots


SCALE_DOTS = (_define_scale_dots(False), _define_scale_dots(True))
"""As ``SCALE_TILE``, for sums that ``leave_dots`` has left at an address."""


def _at_its_place(builder: Any, vector: Any) -> Any:
    """A vector that is there after all for which this was called before.

    Left to itself the compiler scales all tokens at once, and spills what they are added to.
    """
    kind = ir.FunctionType(vector.type, [vector.type])
    return builder.asm(kind, "", "=v,0", [vector], side_effect=True)


def _tile_instruction(builder: Any, name: str, *args: Any) -> None:
    call_llvm(builder, f"llvm.x86.{name}", ir.VoidType(), list(args))
