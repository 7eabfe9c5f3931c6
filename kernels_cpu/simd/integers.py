"""Operations on bytes and integers: loading pieces of quantized blocks and extracting their bits.

Which bits belong to which weight is left to ``formats``.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.arithmetic import round_to_integer
from edgellama.kernels_cpu.simd.vectors import (
    I8,
    I16,
    I32,
    Vector,
    call_llvm,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    splat,
)

PIECE_BYTES = 16
"""Block formats are read in pieces of 16 bytes: half a block of 32, four lanes."""


@intrinsic
def i32_zeros_like(typingctx, like):
    """Integer zeros in as many lanes as ``like``."""
    return Vector("i32", like.lanes)(like), lambda ctx, b, sig, args: constant(
        "i32", [0] * like.lanes
    )


@intrinsic
def load_pieces(typingctx, address, stride, like):
    """16 bytes from each of ``address``, ``address + stride``, …: as many as fill ``like``."""
    num_pieces = like.lanes // 4
    vector = Vector("i8", num_pieces * PIECE_BYTES)

    def codegen(ctx, b, sig, args):
        address = args[0]
        pieces = [load_at(b, address, llvm_vector("i8", PIECE_BYTES))]
        for _ in range(num_pieces - 1):
            address = b.add(address, args[1])
            pieces.append(load_at(b, address, llvm_vector("i8", PIECE_BYTES)))
        return concatenate(b, pieces)

    return vector(types.int64, types.int64, like), codegen


@intrinsic(prefer_literal=True)
def load_chosen_pieces(typingctx, address, first, second, third, fourth, like):
    """16-byte pieces of the memory at ``address``, by literal number: as many as fill ``like``."""
    numbers = [getattr(n, "literal_value", None) for n in (first, second, third, fourth)]
    if None in numbers:
        return None
    chosen = numbers[: like.lanes // 4]
    span = 1 << max(chosen).bit_length()

    def codegen(ctx, b, sig, args):
        if len(chosen) == span:
            # All of the memory is used by the two halves of a block: one load serves both.
            whole = load_at(b, args[0], llvm_vector("i8", span * PIECE_BYTES))
            return shuffle(b, whole, whole, [16 * n + i for n in chosen for i in range(16)])
        piece = llvm_vector("i8", PIECE_BYTES)
        return concatenate(b, [load_at(b, args[0], piece, PIECE_BYTES * n) for n in chosen])

    vector = Vector("i8", len(chosen) * PIECE_BYTES)
    return vector(types.int64, first, second, third, fourth, like), codegen


def concatenate(builder: Any, vectors: list[Any]) -> Any:
    """Vectors of equal width laid end to end; their number is a power of two."""
    while len(vectors) > 1:
        width = vectors[0].type.count
        vectors = [
            shuffle(builder, vectors[i], vectors[i + 1], range(2 * width))
            for i in range(0, len(vectors), 2)
        ]
    return vectors[0]


@intrinsic
def piece_of(typingctx, low, high):
    """Two words of 64 bits as a piece."""

    def codegen(ctx, b, sig, args):
        words = b.insert_element(splat(b, args[0], 2), args[1], I32(1))
        return b.bitcast(words, llvm_vector("i8", PIECE_BYTES))

    return Vector("i8", PIECE_BYTES)(types.int64, types.int64), codegen


@intrinsic
def repeat_piece(typingctx, piece, like):
    """A piece as often as it fits into ``like``."""

    def codegen(ctx, b, sig, args):
        return shuffle(b, args[0], args[0], list(range(PIECE_BYTES)) * (like.lanes // 4))

    return Vector("i8", 4 * like.lanes)(piece, like), codegen


@intrinsic(prefer_literal=True)
def keep_bits(typingctx, v, bits):
    """Every byte and the literal ``bits``."""
    mask = getattr(bits, "literal_value", None)
    if mask is None:
        return None
    return v(v, bits), lambda ctx, b, sig, args: b.and_(args[0], constant("i8", [mask] * v.lanes))


@intrinsic
def keep_chosen_bits(typingctx, v, bits):
    """Every byte and ``bits``."""

    def codegen(ctx, b, sig, args):
        return b.and_(args[0], splat(b, b.trunc(args[1], I8), v.lanes))

    return v(v, types.int64), codegen


@intrinsic
def low_nibbles(typingctx, v):
    """Lower four bits of every byte."""
    return v(v), lambda ctx, b, sig, args: b.and_(args[0], constant("i8", [15] * v.lanes))


@intrinsic
def high_nibbles(typingctx, v):
    """Upper four bits of every byte."""
    return v(v), lambda ctx, b, sig, args: b.lshr(args[0], constant("i8", [4] * v.lanes))


@intrinsic
def flip_sign_bits(typingctx, v):
    """Unsigned bytes, less 128, as signed ones."""
    return v(v), lambda ctx, b, sig, args: b.xor(args[0], constant("i8", [-128] * v.lanes))


@intrinsic
def merge(typingctx, x, y):
    """Bits of both."""
    return x(x, y), lambda ctx, b, sig, args: b.or_(*args)


def _piece_amounts(builder: Any, amounts: Any, num_bytes: int) -> Any:
    """One number of bits for all words of each 16-byte piece."""
    splats = [splat(builder, builder.trunc(a, I32), 4) for a in amounts[: num_bytes // PIECE_BYTES]]
    return concatenate(builder, splats)


@intrinsic
def shift_pieces(typingctx, v, first, second, third, fourth):
    """The words of each 16-byte piece shifted right by its own number of bits.

    Bits of neighbouring bytes come in, so the caller keeps those that stayed in their byte.
    """

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", v.lanes // 4))
        return b.bitcast(b.lshr(words, _piece_amounts(b, args[1:], v.lanes)), args[0].type)

    return v(v, *[types.int64] * 4), codegen


@intrinsic
def shift_all(typingctx, v, amount):
    """As ``shift_pieces``, by the same number of bits for all."""

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", v.lanes // 4))
        amounts = splat(b, b.trunc(args[1], I32), v.lanes // 4)
        return b.bitcast(b.lshr(words, amounts), args[0].type)

    return v(v, types.int64), codegen


@intrinsic
def rotate_pieces(typingctx, v, first, second, third, fourth):
    """As ``shift_pieces``, but rotated left, and right where the number is negative."""

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", v.lanes // 4))
        amounts = _piece_amounts(b, args[1:], v.lanes)
        amounts = b.and_(amounts, constant("i32", [31] * (v.lanes // 4)))
        name = f"llvm.fshl.v{v.lanes // 4}i32"
        return b.bitcast(call_llvm(b, name, words.type, [words, words, amounts]), args[0].type)

    return v(v, *[types.int64] * 4), codegen


@intrinsic(prefer_literal=True)
def bytes_like(typingctx, v, value):
    """The literal ``value`` in every byte."""
    number = getattr(value, "literal_value", None)
    if number is None:
        return None
    signed = number - 256 if number > 127 else number
    return v(v, value), lambda ctx, b, sig, args: constant("i8", [signed] * v.lanes)


@intrinsic(prefer_literal=True)
def add_to_bytes(typingctx, v, value):
    """Every byte plus the literal ``value``."""
    number = getattr(value, "literal_value", None)
    if number is None:
        return None
    return v(v, value), lambda ctx, b, sig, args: b.add(args[0], constant("i8", [number] * v.lanes))


@intrinsic
def store_narrow(typingctx, address, v, factor):
    """Integers times ``factor``, which must fit 16 bits, stored as such."""

    def codegen(ctx, b, sig, args):
        narrow = b.trunc(args[1], llvm_vector("i16", v.lanes))
        product = b.mul(narrow, splat(b, b.trunc(args[2], I16), v.lanes))
        b.store(product, pointer(b, args[0], product.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, v, types.int64), codegen


@intrinsic
def to_f32(typingctx, v):
    """Signed integers as f32."""

    def codegen(ctx, b, sig, args):
        return b.sitofp(args[0], llvm_vector("f32", v.lanes))

    return Vector("f32", v.lanes)(v), codegen


@intrinsic
def round_to_bytes(typingctx, v):
    """f32 lanes of magnitude at most 127, rounded to nearest even, as signed bytes."""

    def codegen(ctx, b, sig, args):
        return b.trunc(round_to_integer(b, args[0]), llvm_vector("i8", v.lanes))

    return Vector("i8", v.lanes)(v), codegen
