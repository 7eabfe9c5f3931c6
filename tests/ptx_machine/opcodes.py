"""What each opcode computes, and the types of its result and its sources.

An instruction that is not here, nor in ``accesses`` and ``machine``, is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from ptx_machine import numbers
from ptx_machine.faults import Array

Compute: TypeAlias = Callable[..., Any]
Table: TypeAlias = "dict[str, tuple[Compute, list[str]]]"
TYPES = {
    "b16": "u2", "u16": "u2", "s16": "i2", "b32": "u4", "u32": "u4", "s32": "i4", "b64": "u8",
    "u64": "u8", "s64": "i8", "f32": "f4", "pred": "?", "f16": "f2",
}  # fmt: skip
"""NumPy's types of PTX's."""


def low(x: Array, y: Array) -> Array:
    """A product's low half: NumPy's own."""
    return np.asarray(x * y)


def wide(x: Array, y: Array) -> Array:
    """A product of twice the width."""
    double = f"{x.dtype.kind}{2 * x.dtype.itemsize}"
    return np.asarray(x.astype(double) * y.astype(double))


def high(x: Array, y: Array) -> Array:
    """Its high half."""
    bits = 8 * x.dtype.itemsize
    return np.asarray((wide(x, y) >> bits).astype(x.dtype))


def multiply_low_add(x: Array, y: Array, z: Array) -> Array:
    """mad.lo."""
    return np.asarray(x * y + z)


def halves(compute: Compute) -> Compute:
    """An operation on both halves of words."""

    def on_words(x: Array, y: Array) -> Array:
        x, y = np.broadcast_arrays(x, y)
        parts = (np.ascontiguousarray(part).view("f2") for part in (x, y))
        return np.asarray(compute(*parts).view("u4"))

    return on_words


def selected(x: Array, y: Array, choice: Array) -> Array:
    """selp."""
    return np.where(choice, x, y)


def converted(to: str) -> Compute:
    """cvt between integers."""
    return lambda x: x.astype(to)


def _same_types(names: str, compute: Compute, count: int) -> Table:
    """Opcodes whose result and sources have the type of their last part."""
    return {name: (compute, [TYPES[name.rpartition(".")[2]]] * (count + 1))
            for name in names.split()}  # fmt: skip


ARITHMETIC: Table = {
    **_same_types("add.s16 add.s32 add.s64 add.f32 add.rn.f32", np.add, 2),
    **_same_types("sub.s16 sub.s32 sub.s64 sub.f32 sub.rn.f32", np.subtract, 2),
    **_same_types("mul.lo.s16 mul.lo.s32 mul.lo.s64 mul.f32 mul.rn.f32", low, 2),
    **_same_types("mul.hi.u16 mul.hi.u32 mul.hi.s32", high, 2),
    **_same_types("mad.lo.s16 mad.lo.s32 mad.lo.s64", multiply_low_add, 3),
    **_same_types("fma.rn.f32", numbers.fused_multiply_add, 3),
    **_same_types("div.rn.f32", np.divide, 2),
    **_same_types("min.u16 min.s16 min.u32 min.s32 min.u64 min.s64", np.minimum, 2),
    **_same_types("max.u16 max.s16 max.u32 max.s32 max.u64 max.s64", np.maximum, 2),
    **_same_types("max.f32", numbers.larger, 2),
    **_same_types("min.f32", numbers.smaller, 2),
    **_same_types("and.b16 and.b32 and.b64 and.pred", np.bitwise_and, 2),
    **_same_types("or.b16 or.b32 or.b64 or.pred", np.bitwise_or, 2),
    **_same_types("xor.b16 xor.b32 xor.b64 xor.pred", np.bitwise_xor, 2),
    **_same_types("not.b16 not.b32 not.b64 not.pred", np.bitwise_not, 1),
    **_same_types("neg.s16 neg.s32 neg.s64 neg.f32", np.negative, 1),
    **_same_types("abs.s32 abs.s64 abs.f32", np.abs, 1),
    **_same_types("ex2.approx.ftz.f32", numbers.power_of_two, 1),
    **_same_types("rcp.approx.f32", numbers.reciprocal, 1),
    **_same_types("rcp.rn.f32", np.reciprocal, 1),
    **_same_types("prmt.b32", numbers.permuted_bytes, 3),
    "add.f16x2": (halves(np.add), ["u4"] * 3),
    "mul.f16x2": (halves(np.multiply), ["u4"] * 3),
    "mul.wide.u16": (wide, ["u4", "u2", "u2"]),
    "mul.wide.u32": (wide, ["u8", "u4", "u4"]),
    "mul.wide.s32": (wide, ["i8", "i4", "i4"]),
    "cvt.f32.f16": (lambda x: x.astype("f4"), ["f4", "f2"]),
    "cvt.rn.f16.f32": (numbers.half_bits, ["u2", "f4"]),
    "cvt.rn.f16x2.f32": (
        lambda a, b: numbers.pair(numbers.half_bits(a), numbers.half_bits(b)), ["u4", "f4", "f4"],
    ),
    "cvt.rn.bf16x2.f32": (
        lambda a, b: numbers.pair(numbers.bfloat_bits(a), numbers.bfloat_bits(b)),
        ["u4", "f4", "f4"],
    ),
    "cvt.rn.f32.s32": (lambda x: x.astype("f4"), ["f4", "i4"]),
    "cvt.rn.f32.u32": (lambda x: x.astype("f4"), ["f4", "u4"]),
    "cvt.rzi.s32.f32": (numbers.toward_zero, ["i4", "f4"]),
}  # fmt: skip
SHIFTS: Table = {
    f"{name}.{kind}": (compute, [TYPES[kind], TYPES[kind], "u4"])
    for name, compute, kinds in (
        ("shl", numbers.shifted_left, "b16 b32 b64"),
        ("shr", numbers.shifted_right, "u16 s16 u32 s32 u64 s64"),
    )
    for kind in kinds.split()
}
"""Distances are words, whatever is shifted."""
FIELDS: Table = {
    f"bfe.{kind}": (numbers.bit_field, [TYPES[kind], TYPES[kind], "u4", "u4"])
    for kind in ("u32", "u64")
}
CHOICES: Table = {
    f"selp.{kind}": (selected, [*[TYPES[kind]] * 3, "?"]) for kind in ("b16", "b32", "b64", "f32")
}
COMPARED: dict[str, Compute] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal,
}  # fmt: skip
COMPARISONS: Table = {
    f"setp.{name}.{kind}": (compute, ["?", TYPES[kind], TYPES[kind]])
    for (name, compute), kind in product(
        COMPARED.items(), ("b16", "s16", "u16", "b32", "s32", "u32", "b64", "s64", "u64", "f32")
    )
    if (name, kind) != ("ne", "f32")
}
"""Of what is no number they are false, so that NumPy's "ne" is not PTX's."""
CONVERSIONS: Table = {
    f"cvt.{to}.{source}": (converted(TYPES[to]), [TYPES[to], TYPES[source]])
    for to, source in product(("u16", "u32", "s32", "u64", "s64"), repeat=2)
    if TYPES[to] != TYPES[source]
}
"""Integers are cut, or go on with their sign."""
COMPUTED: Table = {
    **ARITHMETIC, **SHIFTS, **FIELDS, **CHOICES, **COMPARISONS, **CONVERSIONS,
}  # fmt: skip
DIVISIONS = {
    f"{name}.{kind}": (compute, TYPES[kind])
    for name, compute in (("div", numbers.quotient), ("rem", numbers.remainder))
    for kind in ("s32", "u32", "s64", "u64")
}
"""Integer divisions, which fault where the divisor is 0."""
SINCE_AMPERE = frozenset({"cvt.rn.f16x2.f32", "cvt.rn.bf16x2.f32"})
MOVES = {"mov.b32": "u4", "mov.u32": "u4", "mov.b64": "u8"}
