"""Looks up vectors of a codebook by their numbers.

The codebook is a constant of the kernel. A number from a file may be anything, so it is masked to
the length of the codebook before the lookup, unless the instruction ignores its upper bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.integers import PIECE_BYTES, concatenate
from edgellama.kernels_cpu.simd.vectors import (
    I8,
    I32,
    I64,
    Vector,
    call_llvm,
    constant,
    llvm_vector,
    load_at,
    shuffle,
    tier_of,
)
from edgellama.kernels_cpu.simd.whole_registers import shuffle_in_pieces

Function = Callable[..., Any]


def _table_address(builder: Any, name: str, content: bytes) -> Any:
    """Where the bytes of a table lie, once in a module."""
    known = builder.module.globals.get(name)
    if known is None:
        value = ir.Constant(ir.ArrayType(I8, len(content)), bytearray(content))
        known = ir.GlobalVariable(builder.module, value.type, name)
        known.initializer, known.linkage, known.align = value, "internal", 64
        known.global_constant = known.unnamed_addr = True
    return builder.ptrtoint(known, I64)


@dataclass(frozen=True)
class Table:
    """A codebook as kernels read it: ``entries`` vectors of ``entry_bytes`` bytes.

    ``packed`` has the numbers of their bytes among ``values``, the first lowest, as hexadecimal.
    """

    name: str
    values: tuple[int, ...]
    entries: int
    entry_bytes: int
    packed: str

    def __post_init__(self) -> None:
        if self.entries & (self.entries - 1):
            raise ValueError(f"numbers are masked, so {self.entries} must be a power of two")

    @property
    def bits(self) -> int:
        """Of a byte's number: a vector is packed in 16."""
        return 16 // self.entry_bytes

    def unpacked(self) -> bytes:
        """All bytes of all vectors."""
        mask, ups = (1 << self.bits) - 1, range(0, 8, self.bits)
        packed = bytes.fromhex(self.packed)
        return bytes(self.values[byte >> up & mask] for byte in packed for up in ups)


def define_chosen_pieces(table: Table, number_at: Function, numbers_from: Function) -> Function:
    """An intrinsic: 16-byte pieces from number ``half`` on of a codebook's chosen vectors.

    ``number_at(base, place)`` tells which vector comes at a place of the super-block at ``base``.
    ``numbers_from(builder, base, start)`` builds LLVM code for 32 from a place on, of 16 bits
    whose upper ones may be anything. On the widest vectors those are found at once by permutations
    of registers: loading one by one what is in the first level of the cache takes twice as long.
    """
    number_of = device(number_at)

    @intrinsic
    def chosen_pieces(typingctx, base, half, like):
        tier, kind = tier_of(typingctx), typingctx.resolve_value_type(number_of)
        signature = kind.get_call_type(typingctx, (types.int64, types.int64), {})

        def codegen(ctx, b, sig, args):
            if tier.lanes == like.lanes == 16:
                start = b.and_(b.mul(args[1], I64(PIECE_BYTES // table.entry_bytes)), I64(TOGETHER))
                words = _looked_up(b, table, numbers_from(b, args[0], start))
                return _expanded(b, table, words, args[1], tier)
            call = ctx.get_function(kind, signature)
            return _loaded_pieces(
                b, table, args[1], like.lanes // 4, lambda place: call(b, [args[0], place])
            )

        return Vector("i8", 4 * like.lanes)(types.int64, types.int64, like), codegen

    return chosen_pieces


def _loaded_pieces(
    builder: Any, table: Table, half: Any, num_pieces: int, number_of: Function
) -> Any:
    """Vectors that are loaded one by one."""
    each = PIECE_BYTES // table.entry_bytes
    entry = ir.IntType(8 * table.entry_bytes)
    address = _table_address(builder, table.name, table.unpacked())
    first, pieces = builder.mul(half, I64(each)), []
    for piece in range(num_pieces):
        found = ir.Constant(ir.VectorType(entry, each), ir.Undefined)
        for lane in range(each):
            number = number_of(builder.add(first, I64(each * piece + lane)))
            number = builder.and_(number, I64(table.entries - 1))
            at = builder.add(address, builder.mul(number, I64(table.entry_bytes)))
            found = builder.insert_element(found, load_at(builder, at, entry), I32(lane))
        pieces.append(builder.bitcast(found, llvm_vector("i8", PIECE_BYTES)))
    return concatenate(builder, pieces)


TOGETHER = 32
"""Numbers that a register of 16-bit lanes holds."""


def define_bytes_from(at: int, ninth_bits_at: int | None = None) -> Function:
    """What builds 32 numbers: a byte each, and a ninth bit each where there are any."""

    def numbers_from(builder: Any, base: Any, start: Any) -> Any:
        low = load_at(builder, builder.add(base, start), llvm_vector("i8", TOGETHER), at)
        numbers = builder.zext(low, llvm_vector("i16", TOGETHER))
        if ninth_bits_at is None:
            return numbers
        bits = load_at(builder, builder.add(base, builder.lshr(start, I64(3))), I32, ninth_bits_at)
        ninth = builder.bitcast(bits, ir.VectorType(ir.IntType(1), TOGETHER))
        larger = builder.or_(numbers, constant("i16", [256] * TOGETHER))
        return builder.select(ninth, larger, numbers)

    return numbers_from


def define_lower_halves_from(at: int) -> Function:
    """The same of bytes that are the lower halves of words of 64 bits."""

    def numbers_from(builder: Any, base: Any, start: Any) -> Any:
        words = load_at(builder, base, ir.VectorType(I64, TOGETHER // 4), at)
        low = builder.trunc(words, llvm_vector("i32", TOGETHER // 4))
        low = builder.bitcast(low, llvm_vector("i8", TOGETHER))
        return builder.zext(low, llvm_vector("i16", TOGETHER))

    return numbers_from


def define_words_from(at: int) -> Function:
    """The same of numbers that have 16 bits, with others above them."""

    def numbers_from(builder: Any, base: Any, start: Any) -> Any:
        return load_at(builder, base, llvm_vector("i16", TOGETHER), at)

    return numbers_from


def define_ten_bits_from(at: int, upper_at: int) -> Function:
    """The same of bytes with two more bits each, those of four in a byte."""

    def numbers_from(builder: Any, base: Any, start: Any) -> Any:
        words = llvm_vector("i16", TOGETHER)
        low = builder.zext(load_at(builder, base, llvm_vector("i8", TOGETHER), at), words)
        pairs = load_at(builder, base, llvm_vector("i8", TOGETHER // 4), upper_at)
        pairs = shuffle(builder, pairs, pairs, [i // 4 for i in range(TOGETHER)])
        up = constant("i16", [8 - 2 * (i % 4) for i in range(TOGETHER)])
        upper = builder.shl(builder.zext(pairs, words), up)
        return builder.or_(low, builder.and_(upper, constant("i16", [0x300] * TOGETHER)))

    return numbers_from


def define_eleven_bits_from(at: int, upper_at: int, upper_bits: int) -> Function:
    """The same of bytes with three more bits each, every so many bits.

    They begin anew in words of 16 bits where they are told to lie 3 apart, and in bytes.
    """
    each = 4 if upper_bits == 3 else 2

    def numbers_from(builder: Any, base: Any, start: Any) -> Any:
        words = llvm_vector("i16", TOGETHER)
        low = builder.zext(load_at(builder, base, llvm_vector("i8", TOGETHER), at), words)
        kind = llvm_vector("i16" if each == 4 else "i8", TOGETHER // each)
        upper = load_at(builder, base, kind, upper_at)
        upper = shuffle(builder, upper, upper, [i // each for i in range(TOGETHER)])
        if each == 2:
            upper = builder.zext(upper, words)
        down = constant("i16", [upper_bits * (i % each) for i in range(TOGETHER)])
        upper = builder.and_(builder.lshr(upper, down), constant("i16", [7] * TOGETHER))
        return builder.or_(low, builder.shl(upper, constant("i16", [8] * TOGETHER)))

    return numbers_from


def _expanded(builder: Any, table: Table, words: Any, half: Any, tier: Tier) -> Any:
    """The 64 bytes from number ``half`` on of those that 32 packed vectors stand for."""
    count, each = 64 // table.entry_bytes, 8 // table.bits
    parts = [shuffle(builder, words, words, range(i, i + count)) for i in range(0, TOGETHER, count)]
    bit = 4
    while len(parts) > 1:
        is_second = builder.icmp_unsigned("!=", builder.and_(half, I64(bit)), I64(0))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.select(is_second, second, first) for first, second in pairs]
        bit *= 2
    packed = builder.bitcast(parts[0], llvm_vector("i8", 2 * count))
    spread = shuffle(builder, packed, packed, [i // each for i in range(64)])
    downs = [table.bits * (2 * i % each) for i in range(32)]
    spread = builder.lshr(builder.bitcast(spread, llvm_vector("i16", 32)), constant("i16", downs))
    second = builder.lshr(spread, constant("i16", [table.bits] * 32))
    first, second = (builder.bitcast(v, llvm_vector("i8", 64)) for v in (spread, second))
    numbers = shuffle(builder, first, second, [i + 64 * (i % 2) for i in range(64)])
    numbers = builder.and_(numbers, constant("i8", [(1 << table.bits) - 1] * 64))
    values = constant("i8", [*table.values, *[0] * (PIECE_BYTES - len(table.values))] * 4)
    return shuffle_in_pieces(builder, values, numbers, tier)


def _looked_up(builder: Any, table: Table, numbers: Any) -> Any:
    """The packed vectors of 32 numbers: two registers are permuted at once, one of all is kept."""
    kind = llvm_vector("i16", TOGETHER)
    packed = [word for (word,) in struct.iter_unpack("<h", bytes.fromhex(table.packed))]
    registers = [constant("i16", packed[i : i + TOGETHER]) for i in range(0, len(packed), TOGETHER)]
    found = [
        call_llvm(builder, "llvm.x86.avx512.vpermi2var.hi.512", kind, [first, numbers, second])
        for first, second in zip(registers[::2], registers[1::2], strict=True)
    ]
    bit = 2 * TOGETHER
    while len(found) > 1:
        kept = builder.and_(numbers, constant("i16", [bit] * TOGETHER))
        is_second = builder.icmp_unsigned("!=", kept, constant("i16", [0] * TOGETHER))
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [builder.select(is_second, second, first) for first, second in pairs]
        bit *= 2
    return found[0]


@intrinsic
def inline_here(typingctx):
    """Makes the function that calls it part of those that call it, however long it is."""

    def codegen(ctx, b, sig, args):
        b.function.attributes.add("alwaysinline")
        return ctx.get_dummy_value()

    return types.void(), codegen


def define_odd_fields(word_bits: int, first: int, num_bits: int) -> Function:
    """An intrinsic: 2 n + 1 of the numbers in eight words at an address, as bytes.

    Their lowest bit is number ``first``. The bytes are repeated as often as they fit into a vector
    with as many lanes as ``like``.
    """
    words = ir.VectorType(ir.IntType(word_bits), 8)

    @intrinsic
    def odd_fields(typingctx, address, like):
        def codegen(ctx, b, sig, args):
            found = b.lshr(load_at(b, args[0], words), ir.Constant(words, [first - 1] * 8))
            found = b.trunc(found, llvm_vector("i8", 8))
            found = b.and_(found, constant("i8", [(1 << num_bits) - 1 << 1] * 8))
            found = b.or_(found, constant("i8", [1] * 8))
            return shuffle(b, found, found, list(range(8)) * (like.lanes // 2))

        return Vector("i8", 4 * like.lanes)(types.int64, like), codegen

    return odd_fields
