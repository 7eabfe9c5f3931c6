"""Rows in lanes: the same words of as many rows as a vector has lanes, read from where they lie.

Rows are a fixed number of bytes apart. 16 bytes of each row are loaded and transposed in registers.
A lane then holds words of one row only, so nothing has to be summed across lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.halves import half_bits_to_f32
from edgellama.kernels_cpu.simd.integers import concatenate
from edgellama.kernels_cpu.simd.vectors import (
    I16,
    I32,
    I64,
    SCALARS,
    Vector,
    constant,
    llvm_vector,
    load_at,
    pointer,
    shuffle,
    tier_of,
)

VECTOR_BYTES = 64
"""Of a full vector on the widest tier."""
ROWS_A_STEP = 3
"""Rows that are reached from one base address: x86 adds one or two times a register for nothing."""


def _opaque(builder: Any, value: Any) -> Any:
    """The same number, of which the compiler knows nothing.

    It would else keep an address for every row, which are more than there are registers.
    """
    function = ir.FunctionType(I64, [I64])
    return builder.asm(function, "", "=r,0", [value], side_effect=False)


@intrinsic
def row_steps(typingctx, row_bytes):
    """What the functions below take for rows so many bytes apart."""
    count = -(-tier_of(typingctx).lanes // ROWS_A_STEP)
    result = types.UniTuple(types.int64, count)

    def codegen(ctx, b, sig, args):
        steps = [args[0], *(b.mul(args[0], I64(ROWS_A_STEP * i)) for i in range(1, count))]
        return ctx.make_tuple(b, result, [_opaque(b, step) for step in steps])

    return result(types.int64), codegen


def row_addresses(builder: Any, address: Any, steps: Any, lanes: int) -> list[Any]:
    """The address of every row, from few registers."""
    row_bytes = builder.extract_value(steps, 0)
    offsets = [row_bytes, builder.shl(row_bytes, I64(1))]
    base, addresses = _opaque(builder, address), []
    for row in range(lanes):
        number, rest = divmod(row, ROWS_A_STEP)
        here = builder.add(base, builder.extract_value(steps, number)) if number else base
        addresses.append(builder.add(here, offsets[rest - 1]) if rest else here)
    return addresses


def transposed_pieces(builder: Any, vectors: list[Any], lanes: int) -> list[Any]:
    """Four vectors of words: within every four lanes, word i of vector j to word j of vector i."""

    def pick(pair: tuple[Any, Any], order: tuple[int, ...]) -> Any:
        numbers = [4 * piece + n % 4 + n // 4 * lanes for piece in range(lanes // 4) for n in order]
        return shuffle(builder, *pair, numbers)

    first, second, third, fourth = vectors
    joined = [
        (pick((first, second), order), pick((third, fourth), order))
        for order in ((0, 4, 1, 5), (2, 6, 3, 7))
    ]
    return [pick(pair, order) for pair in joined for order in ((0, 1, 4, 5), (2, 3, 6, 7))]


@intrinsic
def load_words(typingctx, address, steps):
    """16 bytes from ``address`` on of every row: four vectors of bytes, one for each word."""
    lanes = tier_of(typingctx).lanes
    vector = Vector("i8", 4 * lanes)
    result = types.UniTuple(vector, 4)

    def codegen(ctx, b, sig, args):
        rows = row_addresses(b, args[0], args[1], lanes)
        pieces = [load_at(b, row, llvm_vector("i32", 4)) for row in rows]
        words = transposed_pieces(b, [concatenate(b, pieces[i::4]) for i in range(4)], lanes)
        kind = llvm_vector("i8", vector.lanes)
        return ctx.make_tuple(b, result, [b.bitcast(word, kind) for word in words])

    return result(types.int64, steps), codegen


@intrinsic
def halves_at(typingctx, address, steps):
    """The half at ``address`` in every row as f32."""
    tier = tier_of(typingctx)

    def codegen(ctx, b, sig, args):
        return half_bits_to_f32(b, _numbers_at(b, *args, I16, tier.lanes), tier)

    return Vector("f32", tier.lanes)(types.int64, steps), codegen


@intrinsic
def words_at(typingctx, address, steps):
    """The four bytes at ``address`` in every row."""
    lanes = tier_of(typingctx).lanes

    def codegen(ctx, b, sig, args):
        return b.bitcast(_numbers_at(b, *args, I32, lanes), llvm_vector("i8", 4 * lanes))

    return Vector("i8", 4 * lanes)(types.int64, steps), codegen


def _numbers_at(builder: Any, address: Any, steps: Any, kind: Any, lanes: int) -> Any:
    numbers = ir.Constant(ir.VectorType(kind, lanes), ir.Undefined)
    for lane, row in enumerate(row_addresses(builder, address, steps, lanes)):
        numbers = builder.insert_element(numbers, load_at(builder, row, kind), I32(lane))
    return numbers


def blocks_in_reach(block_bytes: int, num_bytes: int) -> int:
    """Of how many blocks a full vector reaches the begin: two or four."""
    return 4 if 3 * block_bytes + num_bytes <= VECTOR_BYTES <= 4 * block_bytes else 2


def define_at_blocks(kind: str, block_bytes: int) -> Callable[..., Any]:
    """An intrinsic: what begins each of ``blocks_in_reach`` blocks in every row.

    Halves ("i16") as f32, or words ("i32") as bytes. On the widest tier one load of each row
    reaches them all: moving them to their lanes then costs a third of loading each by itself.
    """
    number, num_bytes = SCALARS[kind], SCALARS[kind].width // 8
    num_blocks = blocks_in_reach(block_bytes, num_bytes)
    window = VECTOR_BYTES
    while window // 2 >= (num_blocks - 1) * block_bytes + num_bytes:
        window //= 2

    @intrinsic
    def at_blocks(typingctx, address, steps):
        tier = tier_of(typingctx)
        is_half = kind == "i16"
        vector = Vector("f32", tier.lanes) if is_half else Vector("i8", 4 * tier.lanes)
        result = types.UniTuple(vector, num_blocks)

        def codegen(ctx, b, sig, args):
            if tier.lanes * 4 < VECTOR_BYTES:
                starts = [b.add(args[0], I64(block_bytes * i)) for i in range(num_blocks)]
                values = [_numbers_at(b, start, args[1], number, tier.lanes) for start in starts]
            else:
                rows = row_addresses(b, args[0], args[1], tier.lanes)
                whole = ir.VectorType(number, window // num_bytes)
                places = [i * block_bytes // num_bytes for i in range(num_blocks)]
                values = _collected(b, [load_at(b, row, whole) for row in rows], places)
            if is_half:
                values = [half_bits_to_f32(b, value, tier) for value in values]
            else:
                values = [b.bitcast(v, llvm_vector("i8", vector.lanes)) for v in values]
            return ctx.make_tuple(b, result, values)

        return result(types.int64, steps), codegen

    return at_blocks


def _collected(builder: Any, rows: list[Any], places: list[int], each: int = 1) -> list[Any]:
    """For each place of the rows a vector with what stands there in all of them.

    Vectors are joined in pairs until one is left; so far ``each`` numbers stand at a place.
    """
    width, count = rows[0].type.count, len(places)
    if len(rows) == 1:
        return [shuffle(builder, rows[0], rows[0], range(at, at + each)) for at in places]
    capacity = 8 * VECTOR_BYTES // rows[0].type.element.width
    if 2 * each * count > capacity:
        halves = places[: count // 2], places[count // 2 :]
        return [v for half in halves for v in _collected(builder, rows, half, each)]
    order = [at + i for place in places for at in (place, width + place) for i in range(each)]
    order += [0] * (width - len(order))
    joined = [shuffle(builder, *pair, order) for pair in zip(rows[::2], rows[1::2], strict=True)]
    return _collected(builder, joined, [2 * each * i for i in range(count)], 2 * each)


@intrinsic(prefer_literal=True)
def half_of_words(typingctx, words, index):
    """The lower (0) or upper (1) half of every word as f32."""
    tier, number = tier_of(typingctx), getattr(index, "literal_value", None)
    if number is None:
        return None
    lanes = words.lanes // 4

    def codegen(ctx, b, sig, args):
        halves = b.bitcast(args[0], llvm_vector("i16", 2 * lanes))
        return half_bits_to_f32(b, shuffle(b, halves, halves, range(number, 2 * lanes, 2)), tier)

    return Vector("f32", lanes)(words, index), codegen


def _define_byte_of_words(is_signed: bool) -> Callable[..., Any]:
    @intrinsic(prefer_literal=True)
    def byte_of_words(typingctx, words, index):
        number = getattr(index, "literal_value", None)
        if number is None:
            return None
        lanes = words.lanes // 4

        def each(value: int) -> ir.Constant:
            return constant("i32", [value] * lanes)

        def codegen(ctx, b, sig, args):
            value = b.shl(b.bitcast(args[0], llvm_vector("i32", lanes)), each(24 - 8 * number))
            value = (b.ashr if is_signed else b.lshr)(value, each(24))
            return b.sitofp(value, llvm_vector("f32", lanes))

        return Vector("f32", lanes)(words, index), codegen

    return byte_of_words


unsigned_byte, signed_byte = _define_byte_of_words(False), _define_byte_of_words(True)
"""One byte of every word, by literal number, as f32."""


@intrinsic(prefer_literal=True)
def bits_at(typingctx, v, amount, mask):
    """Words shifted right by a literal, or left where it is negative, and a literal of each byte.

    Bits of neighbouring bytes come in, so the mask keeps those that stayed in their byte.
    """
    shift, bits = (getattr(number, "literal_value", None) for number in (amount, mask))
    if shift is None or bits is None:
        return None
    lanes = v.lanes // 4

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", lanes))
        moved = b.shl if shift < 0 else b.lshr
        words = moved(words, constant("i32", [abs(shift)] * lanes))
        signed = bits - 256 if bits > 127 else bits
        return b.and_(b.bitcast(words, args[0].type), constant("i8", [signed] * v.lanes))

    return v(v, amount, mask), codegen


@intrinsic(prefer_literal=True)
def word_bits_at(typingctx, v, amount, mask):
    """As ``bits_at``, with a literal mask of words."""
    shift, bits = (getattr(number, "literal_value", None) for number in (amount, mask))
    if shift is None or bits is None:
        return None
    lanes = v.lanes // 4

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[0], llvm_vector("i32", lanes))
        words = b.lshr(words, constant("i32", [shift] * lanes))
        return b.bitcast(b.and_(words, constant("i32", [bits] * lanes)), args[0].type)

    return v(v, amount, mask), codegen


@intrinsic
def store_first(typingctx, address, v):
    """The first 32 bits of a vector."""

    def codegen(ctx, b, sig, args):
        words = b.bitcast(args[1], ir.VectorType(I32, args[1].type.count * _bits(v) // 32))
        b.store(b.extract_element(words, I32(0)), pointer(b, args[0], I32), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, v), codegen


def _bits(vector: Vector) -> int:
    return {"i8": 8, "i32": 32, "f32": 32}[vector.kind]


@intrinsic(prefer_literal=True)
def stack_room(typingctx, num_vectors):
    """The address of room on the stack for a literal number of full vectors."""
    count = getattr(num_vectors, "literal_value", None)
    if count is None:
        return None
    lanes = tier_of(typingctx).lanes

    def codegen(ctx, b, sig, args):
        with b.goto_entry_block():
            room = b.alloca(llvm_vector("f32", lanes), size=I32(count))
            room.align = VECTOR_BYTES
        return b.ptrtoint(room, I64)

    return types.int64(num_vectors), codegen
