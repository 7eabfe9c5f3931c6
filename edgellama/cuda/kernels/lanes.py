"""``Lanes``: a value that differs from lane to lane of a warp, with Python's operators.

A kernel computes with two kinds of values: uniform numbers (int64, float32), which are the same in
all 32 lanes, and ``Lanes``. On the card a Lanes value is one register of each thread; in the CPU
form it is an LLVM vector of 32 lanes. The code that builds LLVM instructions is shared by both.
Branches and loops depend on uniform numbers only; where lanes differ, ``select`` chooses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from edgellama.cuda.card_tiers import CARD_MACHINES
from edgellama.cuda.layouts import WARP
from edgellama.kernels_cpu.simd.vectors import F32, I16, I32, I64, splat, tier_of

I1 = ir.IntType(1)
KINDS = {"mask": I1, "i16": I16, "i32": I32, "i64": I64, "f32": F32}


class Lanes(types.Type):
    """One number of a kind in each lane; ``width`` is 1 on the card and 32 in the CPU form."""

    def __init__(self, kind: str, width: int) -> None:
        self.kind, self.width = kind, width
        super().__init__(name=f"Lanes({kind},{width})")

    @property
    def llvm(self) -> Any:
        """The LLVM type: a scalar on the card."""
        return lanes_llvm(self.kind, self.width)

    def of(self, kind: str) -> Lanes:
        """The type of another kind of number for the same target."""
        return Lanes(kind, self.width)


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """Stores lanes as LLVM's scalar or vector."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.llvm)


def lanes_llvm(kind: str, width: int) -> Any:
    """The LLVM type of one number of a kind in each lane."""
    return KINDS[kind] if width == 1 else ir.VectorType(KINDS[kind], width)


def is_card(typing_context: Any) -> bool:
    """Whether PTX is being compiled, and not the CPU form."""
    return tier_of(typing_context).machines == CARD_MACHINES


def lanes_of(typing_context: Any, kind: str) -> Lanes:
    """The type of lanes for the running compilation."""
    return Lanes(kind, 1 if is_card(typing_context) else WARP)


def each(like: Any, value: float) -> Any:
    """A constant of an LLVM type, in every lane of a vector."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [value] * like.count)
    return ir.Constant(like, value)


def spread(builder: Any, value: Any, width: int) -> Any:
    """A uniform LLVM value in every lane."""
    return value if width == 1 else splat(builder, value, width)


def every_lane(width: int, values: list[int]) -> Any:
    """A constant i32 vector with one number for each lane; for the CPU form alone."""
    return ir.Constant(ir.VectorType(I32, width), values)


def resized(builder: Any, value: Any, kind: str, width: int, *, is_signed: bool = True) -> Any:
    """An LLVM integer, or one in each lane, with as many bits as ``kind`` has."""
    target = lanes_llvm(kind, width)
    have = value.type.element if isinstance(value.type, ir.VectorType) else value.type
    if have.width > KINDS[kind].width:
        return builder.trunc(value, target)
    return (builder.sext if is_signed else builder.zext)(value, target)


# Operators. One side may be a uniform number.

ARITHMETIC = {
    ("f32", operator.add): "fadd",
    ("f32", operator.sub): "fsub",
    ("f32", operator.mul): "fmul",
    ("f32", operator.truediv): "fdiv",
    **{
        (kind, function): method
        for kind in ("i32", "i64")
        for function, method in (
            (operator.add, "add"),
            (operator.sub, "sub"),
            (operator.mul, "mul"),
            (operator.and_, "and_"),
            (operator.or_, "or_"),
            (operator.xor, "xor"),
            (operator.lshift, "shl"),
            (operator.rshift, "lshr"),
        )
    },
    ("mask", operator.and_): "and_",
    ("mask", operator.or_): "or_",
}
"""``>>`` brings zeros in from above: words hold packed numbers."""
COMPARISONS = {
    operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=", operator.eq: "==",
    operator.ne: "!=",
}  # fmt: skip
UNIFORM = (types.Float, types.Integer)


def _lanes_among(operands: Any) -> Lanes | None:
    """The one Lanes type among the operands, if the others are the same or uniform numbers."""
    found = {operand for operand in operands if isinstance(operand, Lanes)}
    others = [operand for operand in operands if isinstance(operand, UNIFORM)]
    if len(found) != 1 or len(found) + len(others) < len(set(operands)):
        return None
    return found.pop()


def _operand(context: Any, builder: Any, value: Any, kind: Any, lanes: Lanes) -> Any:
    if isinstance(kind, Lanes):
        return value
    numba_type = {"f32": types.float32, "i32": types.int32, "i64": types.int64}[lanes.kind]
    return spread(builder, context.cast(builder, value, kind, numba_type), lanes.width)


def _define_operator(function: Callable[..., Any]) -> None:
    class LanesOperator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            lanes = _lanes_among(args)
            if lanes is None:
                return None
            if function in COMPARISONS:
                return signature(lanes.of("mask"), *args)
            return signature(lanes, *args) if (lanes.kind, function) in ARITHMETIC else None

    infer_global(function)(LanesOperator)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = _lanes_among(sig.args)
        assert lanes is not None
        pairs = zip(args, sig.args, strict=True)
        left, right = (_operand(context, builder, value, kind, lanes) for value, kind in pairs)
        if function not in COMPARISONS:
            return getattr(builder, ARITHMETIC[lanes.kind, function])(left, right)
        compare = builder.fcmp_ordered if lanes.kind == "f32" else builder.icmp_signed
        return compare(COMPARISONS[function], left, right)

    for left, right in (
        (Lanes, Lanes),
        *((Lanes, uniform) for uniform in UNIFORM),
        *((uniform, Lanes) for uniform in UNIFORM),
    ):
        lower_builtin(function, left, right)(lower)


for _function in {function for _, function in ARITHMETIC} | set(COMPARISONS):
    _define_operator(_function)


# Making lanes of numbers.


@intrinsic
def lane_number(typingctx):
    """The number of each lane, 0 to 31."""
    lanes = lanes_of(typingctx, "i32")

    def codegen(ctx, b, sig, args):
        if lanes.width == 1:
            name = "llvm.nvvm.read.ptx.sreg.tid.x"
            thread = b.call(b.module.declare_intrinsic(name, (), ir.FunctionType(I32, [])), [])
            return b.and_(thread, I32(WARP - 1))
        return every_lane(lanes.width, list(range(lanes.width)))

    return lanes(), codegen


def _define_spread(kind: str) -> Callable[..., Any]:
    @intrinsic
    def in_all_lanes(typingctx, value):
        lanes = lanes_of(typingctx, kind)
        expected = types.float32 if kind == "f32" else types.int64

        def codegen(ctx, b, sig, args):
            number = resized(b, args[0], kind, 1) if kind == "i32" else args[0]
            return spread(b, number, lanes.width)

        return lanes(expected), codegen

    return in_all_lanes


f32_lanes, i32_lanes, i64_lanes = map(_define_spread, ("f32", "i32", "i64"))
"""One uniform number in every lane."""


@intrinsic
def select(typingctx, mask, x, y):
    """In each lane ``x`` where the mask is set, else ``y``; one of them may be uniform."""
    lanes = _lanes_among((x, y))
    if lanes is None:
        return None

    def codegen(ctx, b, sig, args):
        pairs = zip(args[1:], sig.args[1:], strict=True)
        return b.select(args[0], *(_operand(ctx, b, value, kind, lanes) for value, kind in pairs))

    return lanes(mask, x, y), codegen


@intrinsic
def widened(typingctx, x):
    """Signed i32 lanes as i64, to be added to an address."""
    lanes = x.of("i64")
    return lanes(x), lambda ctx, b, sig, args: b.sext(args[0], lanes.llvm)


@intrinsic
def truncated(typingctx, x):
    """The whole part of f32 lanes as i32; their magnitude must be below 2**31."""
    lanes = x.of("i32")
    return lanes(x), lambda ctx, b, sig, args: b.fptosi(args[0], lanes.llvm)
