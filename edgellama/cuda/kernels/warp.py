"""What the lanes and warps of a block do together: exchange numbers, and wait for each other.

``warp`` is the last argument of every kernel. On the card it is zero, since the card knows which
block a thread runs. In the CPU form it is the address of a record of int64 words, whose places are
the constants below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from edgellama.cuda.kernels.lanes import (
    KINDS,
    Lanes,
    lanes_of,
    resized,
)
from edgellama.cuda.layouts import WARP
from edgellama.kernels_cpu.simd.vectors import (
    F32,
    I8,
    I32,
    I64,
    call_llvm,
    load_at,
    pointer,
    shuffle,
    splat,
)

BLOCK_X, BLOCK_Y, BLOCK_Z, WARP_NUMBER = 0, 8, 16, 24
"""Words of the record of a warp in the CPU form: which block it belongs to, which of its warps
it is."""
NUM_WARPS, SHARED, BARRIER, YIELD = 32, 40, 48, 56
"""How many warps the block has; the addresses of the block's memory, of two counters at which
its warps meet, zero at first, and of the system's function that gives way to other threads."""
FULL_MASK = -1
GENERATION = 8
"""Behind the counter of warps that have arrived: how often all have met."""


def call_nvvm(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """A call of an intrinsic of LLVM's NVPTX target."""
    kind = ir.FunctionType(result, [a.type for a in args])
    found = builder.module.globals.get(name)
    return builder.call(found or ir.Function(builder.module, kind, name), args)


def _define_special(card: str, word: int, shift: int = 0) -> Callable[..., Any]:
    """A number that the card keeps in a special register, the CPU form in the warp's record."""

    @intrinsic
    def read(typingctx, warp):
        width = lanes_of(typingctx, "i32").width

        def codegen(ctx, b, sig, args):
            if width > 1:
                return load_at(b, args[0], I64, word)
            register = call_nvvm(b, f"llvm.nvvm.read.ptx.sreg.{card}", I32, [])
            return b.zext(b.lshr(register, I32(shift)), I64)

        return types.int64(types.int64), codegen

    return read


block_x, block_y, block_z = (
    _define_special(f"ctaid.{axis}", word)
    for axis, word in (("x", BLOCK_X), ("y", BLOCK_Y), ("z", BLOCK_Z))
)
"""Which block of the grid runs."""
warp_number = _define_special("tid.x", WARP_NUMBER, shift=5)
"""Which warp of its block runs."""

SHARED_NAME = "edgellama_shared"


@intrinsic
def shared_memory(typingctx, warp):
    """The address of the block's memory, whose size the launch tells, for ``shared`` pieces."""
    width = lanes_of(typingctx, "i32").width

    def codegen(ctx, b, sig, args):
        if width > 1:
            return load_at(b, args[0], I64, SHARED)
        memory = b.module.globals.get(SHARED_NAME)
        if memory is None:
            memory = ir.GlobalVariable(b.module, ir.ArrayType(I8, 0), SHARED_NAME, addrspace=3)
            memory.linkage, memory.align = "external", 16
        return b.ptrtoint(memory, I64)

    return types.int64(types.int64), codegen


# Numbers go from lane to lane.


def _shuffle_on_card(builder: Any, mode: str, value: Any, operand: Any) -> Any:
    kind = "f32" if value.type == KINDS["f32"] else "i32"
    arguments = [I32(FULL_MASK), value, operand, I32(WARP - 1)]
    return call_nvvm(builder, f"llvm.nvvm.shfl.sync.{mode}.{kind}", value.type, arguments)


def exchanged(builder: Any, value: Any, distance: int, width: int) -> Any:
    """Each lane's LLVM value becomes that of the lane whose number differs in ``distance``."""
    if width == 1:
        return _shuffle_on_card(builder, "bfly", value, I32(distance))
    return shuffle(builder, value, value, [lane ^ distance for lane in range(width)])


@intrinsic(prefer_literal=True)
def shuffle_xor(typingctx, x, distance):
    """The number of the lane whose own number differs in the bits of a literal ``distance``."""
    bits = getattr(distance, "literal_value", None)
    if bits is None or not isinstance(x, Lanes):
        return None
    return x(x, distance), lambda ctx, b, sig, args: exchanged(b, args[0], bits, x.width)


def lane_value(builder: Any, value: Any, lane: Any, width: int) -> Any:
    """The LLVM value of a uniform i32 lane's number in every lane."""
    if width == 1:
        return _shuffle_on_card(builder, "idx", value, lane)
    return splat(builder, builder.extract_element(value, lane), width)


@intrinsic
def number_of_lane(typingctx, x, lane):
    """The uniform number of lane ``lane``, which is uniform."""
    result = types.float32 if x.kind == "f32" else types.int64

    def codegen(ctx, b, sig, args):
        lane = b.trunc(args[1], I32)
        if x.width == 1:
            value = _shuffle_on_card(b, "idx", args[0], lane)
        else:
            value = b.extract_element(args[0], lane)
        return value if x.kind == "f32" else resized(b, value, "i64", 1)

    return result(x, types.int64), codegen


def larger_of(builder: Any, x: Any, y: Any) -> Any:
    """The larger f32 in each lane, which the card has an instruction for."""
    if x.type == F32:
        return call_llvm(builder, "llvm.maxnum.f32", F32, [x, y])
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _larger_integer(builder: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.icmp_signed(">", x, y), x, y)


def reduced(builder: Any, value: Any, combine: Any, width: int, smallest: int = 1) -> Any:
    """Every lane's value combined with those of the lanes that differ in bits from ``smallest``."""
    distance = WARP // 2
    while distance >= smallest:
        value = combine(builder, value, exchanged(builder, value, distance, width))
        distance //= 2
    return value


def _define_reduction(kind: str, combine: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    result = types.float32 if kind == "f32" else types.int64

    @intrinsic
    def over_all_lanes(typingctx, x):
        if x != lanes_of(typingctx, kind):
            return None

        def codegen(ctx, b, sig, args):
            value = reduced(b, args[0], combine, x.width)
            if x.width > 1:
                value = b.extract_element(value, I32(0))
            return value if kind == "f32" else resized(b, value, "i64", 1)

        return result(x), codegen

    return over_all_lanes


largest_of_lanes = _define_reduction("f32", larger_of)
"""The uniform largest number of all lanes."""
largest_integer_of_lanes = _define_reduction("i32", _larger_integer)
"""The uniform largest i32 of all lanes, as int64."""


# Waiting.


@intrinsic
def warp_barrier(typingctx):
    """What lanes wrote to shared or global memory is seen by the other lanes of the warp."""
    width = lanes_of(typingctx, "i32").width

    def codegen(ctx, b, sig, args):
        if width == 1:
            call_nvvm(b, "llvm.nvvm.bar.warp.sync", ir.VoidType(), [I32(FULL_MASK)])
        return ctx.get_dummy_value()

    return types.void(), codegen


@intrinsic
def memory_fence(typingctx):
    """What this warp wrote before is seen by all blocks before what it writes after."""
    width = lanes_of(typingctx, "i32").width

    def codegen(ctx, b, sig, args):
        if width == 1:
            call_nvvm(b, "llvm.nvvm.membar.gl", ir.VoidType(), [])
        else:
            b.fence("seq_cst")
        return ctx.get_dummy_value()

    return types.void(), codegen


@intrinsic
def block_barrier(typingctx, warp):
    """All warps of the block wait here for each other, and see what the others wrote."""
    width = lanes_of(typingctx, "i32").width

    def codegen(ctx, b, sig, args):
        if width == 1:
            # The barrier 0 of all threads, by a name that old and new versions of LLVM know.
            name = "llvm.nvvm.barrier.cta.sync.aligned.all"
            call_nvvm(b, name, ir.VoidType(), [I32(0)])
        else:
            _meet(b, args[0])
        return ctx.get_dummy_value()

    return types.void(types.int64), codegen


def _meet(builder: Any, record: Any) -> None:
    """The CPU form's barrier: the last to arrive opens it, the others give way until then."""
    counter = load_at(builder, record, I64, BARRIER)
    arrived = pointer(builder, counter, I64)
    generation = pointer(builder, builder.add(counter, I64(GENERATION)), I64)
    before = builder.load_atomic(generation, "seq_cst", 8)
    count = builder.add(builder.atomic_rmw("add", arrived, I64(1), "seq_cst"), I64(1))
    is_last = builder.icmp_signed("==", count, load_at(builder, record, I64, NUM_WARPS))
    with builder.if_else(is_last) as (last, others):
        with last:
            builder.store_atomic(I64(0), arrived, "seq_cst", 8)
            builder.atomic_rmw("add", generation, I64(1), "seq_cst")
        with others:
            loop = builder.append_basic_block("wait")
            end = builder.append_basic_block("met")
            builder.branch(loop)
            builder.position_at_end(loop)
            kind = ir.FunctionType(I32, [])
            builder.call(pointer(builder, load_at(builder, record, I64, YIELD), kind), [])
            now = builder.load_atomic(generation, "seq_cst", 8)
            builder.cbranch(builder.icmp_signed("==", now, before), loop, end)
            builder.position_at_end(end)


@intrinsic
def take_ticket(typingctx, address):
    """Add one to the int32 at a global address, once for the warp; what was there, uniform."""
    lanes = lanes_of(typingctx, "i32")

    def codegen(ctx, b, sig, args):
        if lanes.width > 1:
            at = pointer(b, args[0], I32)
            return b.sext(b.atomic_rmw("add", at, I32(1), "seq_cst"), I64)
        thread = call_nvvm(b, "llvm.nvvm.read.ptx.sreg.tid.x", I32, [])
        is_first = b.icmp_signed("==", b.and_(thread, I32(WARP - 1)), I32(0))
        before = b.block
        with b.if_then(is_first):
            at = b.inttoptr(args[0], ir.PointerType(I32, addrspace=1))
            found = b.atomic_rmw("add", at, I32(1), "monotonic")
            inside = b.block
        result = b.phi(I32)
        result.add_incoming(I32(0), before)
        result.add_incoming(found, inside)
        return b.sext(_shuffle_on_card(b, "idx", result, I32(0)), I64)

    return types.int64(types.int64), codegen
