"""LLVM vectors inside Numba: the type, the tier that decides its width, loads and stores.

Kernels are plain Python over these vectors. The width comes from the tier that is being
compiled for (``f32_zeros``) or from a vector that the caller already has (``like``). Addresses
are ``int64``. Only the ``simd`` modules build LLVM IR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from edgellama.kernels_cpu.layouts import CACHE_LINE
from edgellama.kernels_cpu.machine.cpu import Tier

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


F16, F32 = ir.HalfType(), ir.FloatType()

SCALARS = {"i8": I8, "i16": I16, "i32": I32, "f16": F16, "f32": F32}


class Vector(types.Type):
    """``lanes`` numbers of one kind (``i8``, ``i32`` or ``f32``) in one register or several."""

    def __init__(self, kind: str, lanes: int) -> None:
        self.kind, self.lanes = kind, lanes
        super().__init__(name=f"Vector({kind},{lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """Stores a Vector as LLVM's own vector type."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, llvm_vector(vector.kind, vector.lanes))


def llvm_vector(kind: str, lanes: int) -> ir.VectorType:
    """The LLVM type of ``lanes`` numbers of ``kind``."""
    return ir.VectorType(SCALARS[kind], lanes)


def tier_of(typing_context: Any) -> Tier:
    """The tier that the running compilation is for, as ``jit`` has set it."""
    tier: Tier = typing_context.edgellama_tier
    return tier


def constant(kind: str, values: Iterable[float]) -> ir.Constant:
    """A vector constant."""
    numbers = list(values)
    return ir.Constant(llvm_vector(kind, len(numbers)), numbers)


def pointer(builder: Any, address: Any, llvm_type: Any) -> Any:
    """An address as a typed pointer."""
    return builder.inttoptr(address, llvm_type.as_pointer())


def load_at(builder: Any, address: Any, llvm_type: Any, offset: int = 0) -> Any:
    """An unaligned load from ``address + offset``."""
    if offset:
        address = builder.add(address, ir.Constant(I64, offset))
    return builder.load(pointer(builder, address, llvm_type), align=1)


def shuffle(builder: Any, first: Any, second: Any, lanes: Iterable[int]) -> Any:
    """Lanes of the two vectors laid end to end, in the given order."""
    return builder.shuffle_vector(first, second, constant("i32", lanes))


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """One scalar in every lane."""
    vector = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    vector = builder.insert_element(vector, value, ir.Constant(I32, 0))
    return shuffle(builder, vector, vector, [0] * lanes)


def call_llvm(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """A call of an LLVM intrinsic."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args)


@intrinsic
def f32_zeros(typingctx):
    """A full vector of zeros."""
    vector = Vector("f32", tier_of(typingctx).lanes)
    return vector(), lambda ctx, b, sig, args: constant("f32", [0.0] * vector.lanes)


def _define_zeros(lanes: int) -> Callable[..., Any]:
    @intrinsic
    def zeros(typingctx):
        return Vector("f32", lanes)(), lambda ctx, b, sig, args: constant("f32", [0.0] * lanes)

    return zeros


f32_zeros_4, f32_zeros_8, f32_zeros_16 = map(_define_zeros, (4, 8, 16))
"""Zeros at the widths at which, where a full vector does not fit, one block of weights is handled
and two; and half a block of activations, in several registers where vectors are narrow."""


@intrinsic
def lane_count(typingctx):
    """Lanes of a full vector, as a compile-time constant."""
    lanes = tier_of(typingctx).lanes
    return types.int64(), lambda ctx, b, sig, args: ir.Constant(I64, lanes)


@intrinsic
def width_of(typingctx, like):
    """Lanes of ``like``, as a compile-time constant."""
    return types.int64(like), lambda ctx, b, sig, args: ir.Constant(I64, like.lanes)


def _define_load(kind: str, lanes_per_lane: int) -> Callable[..., Any]:
    @intrinsic
    def load(typingctx, address, like):
        vector = Vector(kind, like.lanes * lanes_per_lane)

        def codegen(ctx, b, sig, args):
            return load_at(b, args[0], llvm_vector(kind, vector.lanes))

        return vector(types.int64, like), codegen

    return load


load_f32, load_i32, load_bytes = (
    _define_load("f32", 1),
    _define_load("i32", 1),
    _define_load("i8", 4),
)


def _define_prefetch(locality, round_lines):
    """llvm.prefetch's ``locality`` is 3 for the first level of the cache, 2 for the second.

    ``round_lines`` says what a part of a line counts as.
    """

    @intrinsic(prefer_literal=True)
    def prefetch(typingctx, address, num_bytes, like):
        """Ask for a literal ``num_bytes`` for each four lanes of ``like``, from any address on."""
        each = getattr(num_bytes, "literal_value", None)
        if each is None:
            return None
        num_lines = max(1, round_lines(each * like.lanes / 4 / CACHE_LINE))

        def codegen(ctx, b, sig, args):
            is_write, is_data = I32(0), I32(1)
            for line in range(num_lines):
                at = pointer(b, b.add(args[0], ir.Constant(I64, line * CACHE_LINE)), I8)
                options = [at, is_write, I32(locality), is_data]
                call_llvm(b, "llvm.prefetch.p0", ir.VoidType(), options)
            return ctx.get_dummy_value()

        return types.void(types.int64, num_bytes, like), codegen

    return prefetch


prefetch_to_l1, prefetch_to_l2 = _define_prefetch(3, round), _define_prefetch(2, math.ceil)


@intrinsic
def store(typingctx, address, vector):
    """Unaligned store of a whole vector."""

    def codegen(ctx, b, sig, args):
        b.store(args[1], pointer(b, args[0], args[1].type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, vector), codegen


@intrinsic
def store_in_turn(typingctx, address, first, second):
    """Unaligned store of two vectors' lanes in turn: first, second, first, second …"""
    order = [lane for i in range(first.lanes) for lane in (i, first.lanes + i)]

    def codegen(ctx, b, sig, args):
        both = shuffle(b, args[1], args[2], order)
        b.store(both, pointer(b, args[0], both.type), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, first, first), codegen


@intrinsic
def splat_f32(typingctx, value, like):
    """One number in every lane."""

    def codegen(ctx, b, sig, args):
        return splat(b, args[0], like.lanes)

    return Vector("f32", like.lanes)(types.float32, like), codegen


def _define_read(
    llvm_type: Any, numba_type: Any, convert: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    @intrinsic
    def read(typingctx, address):
        def codegen(ctx, b, sig, args):
            return convert(b, load_at(b, args[0], llvm_type))

        return numba_type(types.int64), codegen

    return read


read_f32 = _define_read(F32, types.float32, lambda b, x: x)


read_i32 = _define_read(I32, types.int64, lambda b, x: b.sext(x, I64))


read_u8 = _define_read(I8, types.int64, lambda b, x: b.zext(x, I64))


read_u16 = _define_read(I16, types.int64, lambda b, x: b.zext(x, I64))


read_u32 = _define_read(I32, types.int64, lambda b, x: b.zext(x, I64))


read_i64 = _define_read(I64, types.int64, lambda b, x: x)


@intrinsic
def write_i16(typingctx, address, value):
    """Store the lower 16 bits of an integer."""

    def codegen(ctx, b, sig, args):
        b.store(b.trunc(args[1], I16), pointer(b, args[0], I16), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def write_f32(typingctx, address, value):
    """Store one f32."""

    def codegen(ctx, b, sig, args):
        b.store(args[1], pointer(b, args[0], F32), align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.float32), codegen
