"""Python's operators on vectors, for kernels that are formulas: + - * / on f32, & | << >> on i32.

One side may be a scalar, which then stands in every lane. Importing this module is enough.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from edgellama.kernels_cpu.simd.vectors import F32, I32, Vector, splat

METHODS = {
    ("f32", operator.add): "fadd",
    ("f32", operator.sub): "fsub",
    ("f32", operator.mul): "fmul",
    ("f32", operator.truediv): "fdiv",
    ("i32", operator.add): "add",
    ("i32", operator.and_): "and_",
    ("i32", operator.or_): "or_",
    ("i32", operator.lshift): "shl",
    ("i32", operator.rshift): "lshr",
}
SCALARS = (types.Float, types.Integer)


def _vector_of(operands: Any) -> Vector | None:
    """The one vector type among the operands, if the others are the same or scalars."""
    vectors = {operand for operand in operands if isinstance(operand, Vector)}
    scalars = [operand for operand in operands if isinstance(operand, SCALARS)]
    if len(vectors) != 1 or len(vectors) + len(scalars) < len(set(operands)):
        return None
    return vectors.pop()


def _as_vector(context: Any, builder: Any, value: Any, kind: Any, vector: Vector) -> Any:
    if isinstance(kind, Vector):
        return value
    scalar = types.float32 if vector.kind == "f32" else types.int32
    number = context.cast(builder, value, kind, scalar)
    assert number.type == (F32 if vector.kind == "f32" else I32)
    return splat(builder, number, vector.lanes)


def _define_operator(function: Callable[..., Any]) -> None:
    class VectorOperator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vector = _vector_of(args)
            if vector is None or (vector.kind, function) not in METHODS:
                return None
            return signature(vector, *args)

    infer_global(function)(VectorOperator)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.return_type
        operands = [
            _as_vector(context, builder, value, kind, vector)
            for value, kind in zip(args, sig.args, strict=True)
        ]
        return getattr(builder, METHODS[vector.kind, function])(*operands)

    for left, right in (
        (Vector, Vector),
        *((Vector, scalar) for scalar in SCALARS),
        *((scalar, Vector) for scalar in SCALARS),
    ):
        lower_builtin(function, left, right)(lower)


for _function in {function for _, function in METHODS}:
    _define_operator(_function)
