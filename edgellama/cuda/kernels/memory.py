"""Loads and stores: of one uniform number, or of a number in each lane at an address of its own.

``global`` means the card's memory and the computer's memory that is mapped for it; ``shared`` means
the memory of one block. Loads and stores of 16 bytes need addresses that are multiples of 16, all
others multiples of their own size. A store of lanes writes only where the lane's mask is set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import I1, KINDS, Lanes, each, lanes_llvm, lanes_of
from edgellama.kernels_cpu.simd.vectors import I32, I64

GLOBAL, SHARED = 1, 3
"""LLVM's numbers of the card's address spaces."""


def place(builder: Any, address: Any, llvm_type: Any, space: int, width: int) -> Any:
    """An address as a typed pointer; the CPU form has one address space."""
    space = space if width == 1 else 0
    return builder.inttoptr(address, ir.PointerType(llvm_type, addrspace=space))


@intrinsic
def read_global_i64(typingctx, address):
    """One uniform number."""
    width = lanes_of(typingctx, "i32").width

    def codegen(ctx, b, sig, args):
        return b.load(place(b, args[0], I64, GLOBAL, width))

    return types.int64(types.int64), codegen


@intrinsic
def write_global_i32(typingctx, address, value):
    """One uniform number, which all lanes write alike."""
    width = lanes_of(typingctx, "i32").width

    def codegen(ctx, b, sig, args):
        b.store(b.trunc(args[1], I32), place(b, args[0], I32, GLOBAL, width))
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


# Lanes.


def gathered(builder: Any, addresses: Any, element: Any) -> Any:
    """One element from each address of a vector: a loop over lanes, for the CPU form."""
    width = addresses.type.count
    result = ir.Constant(ir.VectorType(element, width), ir.Undefined)
    for i in range(width):
        at = builder.inttoptr(builder.extract_element(addresses, I32(i)), element.as_pointer())
        result = builder.insert_element(result, builder.load(at, align=1), I32(i))
    return result


def helper(builder: Any, name: str, result: Any, kinds: list[Any], build: Any) -> Any:
    """A function of the CPU form that is compiled once for a kernel, not in each place."""
    found = builder.module.globals.get(name)
    if found is None:
        found = ir.Function(builder.module, ir.FunctionType(result, kinds), name)
        found.linkage = "linkonce_odr"
        found.attributes.add("noinline")
        inside = ir.IRBuilder(found.append_basic_block())
        value = build(inside, *found.args)
        inside.ret_void() if value is None else inside.ret(value)
    return found


def load_lanes(builder: Any, addresses: Any, kind: str, space: int, width: int) -> Any:
    """The LLVM value of a load of one number in each lane."""
    element = KINDS[kind]
    if width == 1:
        return builder.load(place(builder, addresses, element, space, width))
    vector = lanes_llvm(kind, width)
    function = helper(
        builder, f"gather_{kind}", vector, [addresses.type],
        lambda b, at: gathered(b, at, element),
    )  # fmt: skip
    return builder.call(function, [addresses])


def load_words(builder: Any, addresses: Any, count: int, space: int, width: int) -> list[Any]:
    """``count`` i32 words that each lane loads at once, as LLVM values."""
    if width == 1:
        if count == 1:
            return [builder.load(place(builder, addresses, I32, space, width))]
        vector = ir.VectorType(I32, count)
        loaded = builder.load(place(builder, addresses, vector, space, width), align=4 * count)
        return [builder.extract_element(loaded, I32(i)) for i in range(count)]
    return [
        load_lanes(
            builder, builder.add(addresses, each(addresses.type, 4 * i)), "i32", space, width
        )
        for i in range(count)
    ]


def store_lanes(
    builder: Any, addresses: Any, value: Any, mask: Any, space: int, width: int
) -> None:
    """One number of each lane whose mask is set."""
    if width == 1:
        with builder.if_then(mask):
            builder.store(value, place(builder, addresses, value.type, space, width))
        return
    element = value.type.element

    def scatter(b: Any, addresses: Any, value: Any, mask: Any) -> None:
        for i in range(width):
            with b.if_then(b.extract_element(mask, I32(i))):
                at = b.inttoptr(b.extract_element(addresses, I32(i)), element.as_pointer())
                b.store(b.extract_element(value, I32(i)), at, align=1)

    function = helper(
        builder, f"scatter_{element}", ir.VoidType(),
        [addresses.type, value.type, ir.VectorType(I1, width)], scatter,
    )  # fmt: skip
    builder.call(function, [addresses, value, mask])


def _define_load(kind: str, space: int) -> Callable[..., Any]:
    @intrinsic
    def load(typingctx, addresses):
        def codegen(ctx, b, sig, args):
            return load_lanes(b, args[0], kind, space, addresses.width)

        return addresses.of(kind)(addresses), codegen

    return load


load_global_f32, load_global_i64 = (_define_load(kind, GLOBAL) for kind in ("f32", "i64"))
"""One number in each lane at an address of its own."""
load_shared_f32 = _define_load("f32", SHARED)


@intrinsic
def load_global_16_bytes(typingctx, addresses):
    """Four i32 lanes: 16 bytes from each lane's address at once."""
    result = types.UniTuple(addresses.of("i32"), 4)

    def codegen(ctx, b, sig, args):
        return ctx.make_tuple(b, result, load_words(b, args[0], 4, GLOBAL, addresses.width))

    return result(addresses), codegen


def _define_store(bits: int | None = None) -> Callable[..., Any]:
    @intrinsic
    def store(typingctx, addresses, value, mask):
        if not isinstance(value, Lanes):
            return None

        def codegen(ctx, b, sig, args):
            number = args[1]
            if bits:
                element = ir.IntType(bits)
                width = value.width
                number = b.trunc(number, element if width == 1 else ir.VectorType(element, width))
            store_lanes(b, args[0], number, args[2], GLOBAL, value.width)
            return ctx.get_dummy_value()

        return types.void(addresses, value, mask), codegen

    return store


@intrinsic
def store_shared_16_bytes(typingctx, addresses, words, mask):
    """Four i32 lanes, 16 bytes at each lane's address at once, of those whose mask is set."""

    def codegen(ctx, b, sig, args):
        values = [b.extract_value(args[1], i) for i in range(words.count)]
        if addresses.width == 1:
            vector = ir.Constant(ir.VectorType(I32, len(values)), ir.Undefined)
            for i, value in enumerate(values):
                vector = b.insert_element(vector, value, I32(i))
            with b.if_then(args[2]):
                at = place(b, args[0], vector.type, SHARED, 1)
                b.store(vector, at, align=4 * len(values))
        else:
            for i, value in enumerate(values):
                at = b.add(args[0], each(args[0].type, 4 * i))
                store_lanes(b, at, value, args[2], SHARED, addresses.width)
        return ctx.get_dummy_value()

    return types.void(addresses, words, mask), codegen


store_global = _define_store()
"""One number of each lane whose mask is set, at an address of its own."""
store_global_16_bits, store_global_8_bits = _define_store(16), _define_store(8)
"""The low bits of i32 lanes whose mask is set."""
