"""Register tiles: a small matrix of accumulators that stays in vector registers.

A tile has ``num_vectors`` vectors (output rows or head elements) for each of ``num_tokens``
tokens. The matrix kernels and the attention are loops over these few operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from edgellama.kernels_cpu.simd.arithmetic import multiply_add
from edgellama.kernels_cpu.simd.halves import float_vector_at
from edgellama.kernels_cpu.simd.vectors import (
    F32,
    I64,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    splat,
    tier_of,
)


class Tile(types.Type):
    """``num_vectors`` x ``num_tokens`` vectors of ``lanes`` numbers of one kind."""

    def __init__(self, kind: str, lanes: int, num_vectors: int, num_tokens: int) -> None:
        self.kind, self.lanes = kind, lanes
        self.num_vectors, self.num_tokens = num_vectors, num_tokens
        super().__init__(name=f"Tile({kind},{lanes},{num_vectors},{num_tokens})")

    @property
    def llvm(self) -> ir.ArrayType:
        """The LLVM type: an array that the optimiser breaks into registers."""
        return ir.ArrayType(llvm_vector(self.kind, self.lanes), self.num_vectors * self.num_tokens)


@register_model(Tile)
class TileModel(models.PrimitiveModel):
    """Stores a Tile as an LLVM array of vectors."""

    def __init__(self, manager: Any, tile: Tile) -> None:
        super().__init__(manager, tile, tile.llvm)


def update_tile(builder: Any, tile: Tile, value: Any, cell: Callable[[int, int, Any], Any]) -> Any:
    """The tile with every cell replaced by ``cell(vector, token, old value)``."""
    for token in range(tile.num_tokens):
        for vector in range(tile.num_vectors):
            index = token * tile.num_vectors + vector
            new = cell(vector, token, builder.extract_value(value, index))
            value = builder.insert_value(value, new, index)
    return value


def offset_by(builder: Any, address: Any, stride: Any, count: int) -> Any:
    return builder.add(address, builder.mul(stride, ir.Constant(I64, count)))


def tile_zeros(tile: Tile) -> ir.Constant:
    zero = constant(tile.kind, [0] * tile.lanes)
    return ir.Constant(tile.llvm, [zero] * (tile.num_vectors * tile.num_tokens))


@intrinsic(prefer_literal=True)
def f32_tile(typingctx, num_vectors, num_tokens):
    """A tile of f32 zeros at full vector width; the sizes are literals."""
    tile = Tile(
        "f32", tier_of(typingctx).lanes, num_vectors.literal_value, num_tokens.literal_value
    )
    return tile(num_vectors, num_tokens), lambda ctx, b, sig, args: tile_zeros(tile)


def _define_fma_tile(kind: str) -> Callable[..., Any]:
    bytes_per_number = 4 if kind == "f32" else 2

    @intrinsic
    def fma_tile(typingctx, tile, panel, x, x_stride):
        tier = tier_of(typingctx)

        def codegen(ctx, b, sig, args):
            value, panel_address, x_address, stride = args
            weights = []
            for v in range(tile.num_vectors):
                offset = ir.Constant(I64, bytes_per_number * tile.lanes * v)
                weights.append(
                    float_vector_at(b, kind, b.add(panel_address, offset), tile.lanes, tier)
                )
            tokens = [
                splat(b, load_at(b, offset_by(b, x_address, stride, t), F32), tile.lanes)
                for t in range(tile.num_tokens)
            ]
            return update_tile(
                b, tile, value, lambda v, t, old: multiply_add(b, weights[v], tokens[t], old, tier)
            )

        return tile(tile, *[types.int64] * 3), codegen

    return fma_tile


FMA_TILE = {kind: _define_fma_tile(kind) for kind in ("f32", "f16", "bf16")}
"""Per kind of stored panel: add one k, f32 panel vectors times one f32 of each token."""


@intrinsic
def add_tiles(typingctx, tile, other):
    """Cell by cell sum."""

    def codegen(ctx, b, sig, args):
        def cell(v: int, t: int, old: Any) -> Any:
            return b.fadd(old, b.extract_value(args[1], t * tile.num_vectors + v))

        return update_tile(b, tile, args[0], cell)

    return tile(tile, tile), codegen


@intrinsic
def load_tile(typingctx, tile, address, token_stride):
    """The tile read back from f32 memory, one token each ``token_stride`` bytes."""

    def codegen(ctx, b, sig, args):
        value, at, stride = args
        vector = llvm_vector("f32", tile.lanes)

        def cell(v: int, t: int, old: Any) -> Any:
            return load_at(b, offset_by(b, at, stride, t), vector, 4 * tile.lanes * v)

        return update_tile(b, tile, value, cell)

    return tile(tile, types.int64, types.int64), codegen


@intrinsic
def store_tile(typingctx, tile, address, token_stride):
    """Write the tile to f32 memory, one token each ``token_stride`` bytes."""

    def codegen(ctx, b, sig, args):
        value, at, stride = args

        def cell(v: int, t: int, old: Any) -> Any:
            where = b.add(offset_by(b, at, stride, t), ir.Constant(I64, 4 * tile.lanes * v))
            b.store(old, pointer(b, where, old.type), align=1)
            return old

        update_tile(b, tile, value, cell)
        return ctx.get_dummy_value()

    return types.void(tile, types.int64, types.int64), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """As many vectors as each has lanes, transposed."""
    lanes, step = len(rows), 1
    while step < lanes:
        for i in range(lanes):
            if not i & step:
                rows[i], rows[i + step] = _exchange(builder, rows[i], rows[i + step], step, lanes)
        step *= 2
    return rows


@intrinsic
def transpose_scattered(typingctx, table, offset, destination):
    """Word j at ``offset`` behind the i-th address of a table to lane i of the j-th vector."""
    lanes = tier_of(typingctx).lanes
    vector = llvm_vector("i32", lanes)

    def codegen(ctx, b, sig, args):
        table, offset, destination = args
        addresses = [load_at(b, table, I64, 8 * i) for i in range(lanes)]
        rows = [load_at(b, b.add(address, offset), vector) for address in addresses]
        for j, row in enumerate(_transposed(b, rows)):
            at = b.add(destination, ir.Constant(I64, 4 * lanes * j))
            b.store(row, pointer(b, at, vector), align=1)
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


def _exchange(builder: Any, upper: Any, lower: Any, step: int, lanes: int) -> tuple[Any, Any]:
    """Swap the off-diagonal ``step`` x ``step`` blocks of two rows of a butterfly transposition."""
    first = [i if not i & step else lanes + (i ^ step) for i in range(lanes)]
    second = [(i ^ step) if not i & step else lanes + i for i in range(lanes)]
    return shuffle(builder, upper, lower, first), shuffle(builder, upper, lower, second)
