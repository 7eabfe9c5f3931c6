"""A warp's product of a 16 x 16 and a 16 x 8 matrix, and how matrices are read from shared memory.

A word of a lane holds two halves or two bfloat16. An 8 x 8 matrix takes one word of each lane: lane
``l`` holds columns ``2 * (l % 4)`` and the next of row ``l // 4``. The 16 x 8 sums are f32 in the
same order, with two more numbers for the rows from 8 on. The functions build LLVM code for the card
and for the CPU form.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from edgellama.cuda.kernels.lanes import each, lanes_llvm
from edgellama.cuda.kernels.memory import helper
from edgellama.cuda.kernels.numbers import WORDS, fused
from edgellama.cuda.kernels.warp import call_nvvm
from edgellama.cuda.layouts import WARP
from edgellama.kernels_cpu.simd.vectors import F16, F32, I32, shuffle, splat

SIDE = 8
"""Rows and columns of a matrix in one word a lane."""


def multiply_add(
    builder: Any, kind: str, left: list[Any], right: list[Any], sums: list[Any], tier: Any
) -> list[Any]:
    """sums + left x right: 16 x 16 of four words by 16 x 8 of two, into four f32 a lane.

    The right matrix lies transposed: a lane's row is its column.
    """
    if isinstance(sums[0].type, ir.VectorType):
        return _multiply_in_helper(builder, kind, left, right, sums, tier)
    if kind == "bf16":
        name = "llvm.nvvm.mma.m16n8k16.row.col.bf16"
        return _call_mma(builder, name, [*left, *right], sums)
    left, right = (
        [builder.bitcast(word, ir.VectorType(F16, 2)) for word in words] for words in (left, right)
    )
    if tier.llvm_cpu != "sm_75":
        name = "llvm.nvvm.mma.m16n8k16.row.col.f32.f32"
        return _call_mma(builder, name, [*left, *right], sums)
    for half in range(2):
        name = "llvm.nvvm.mma.m16n8k8.row.col.f32.f32"
        operands = [*left[2 * half : 2 * half + 2], right[half]]
        sums = _call_mma(builder, name, operands, sums)
    return sums


def _call_mma(builder: Any, name: str, operands: list[Any], sums: list[Any]) -> list[Any]:
    result = call_nvvm(builder, name, ir.LiteralStructType([F32] * 4), [*operands, *sums])
    return [builder.extract_value(result, i) for i in range(4)]


def _multiply_in_helper(
    builder: Any, kind: str, left: list[Any], right: list[Any], sums: list[Any], tier: Any
) -> list[Any]:
    """The CPU form: matrices as rows, each row of sums after the other."""

    def build(b: Any, *words: Any) -> Any:
        sides = [_rows_of(b, WORDS[kind](b, word, WARP, tier)) for word in words[:6]]
        before = [_rows_of(b, list(words[at : at + 2])) for at in (6, 8)]
        result = ir.Constant(ir.LiteralStructType([words[6].type] * 4), ir.Undefined)
        for part, (first, second) in enumerate(((0, 2), (1, 3))):
            rows = [
                _row_product(b, sides[first], sides[second], sides[4:6], before[part], row, tier)
                for row in range(SIDE)
            ]
            matrix = _end_to_end(b, rows)
            for column in range(2):
                lanes = list(range(column, 2 * WARP, 2))
                result = b.insert_value(
                    result, shuffle(b, matrix, matrix, lanes), 2 * part + column
                )
        return result

    operands = [*left, *right, *sums]
    struct = ir.LiteralStructType([sums[0].type] * 4)
    kinds = [operand.type for operand in operands]
    function = helper(builder, f"multiply_{kind}", struct, kinds, build)
    result = builder.call(function, operands)
    return [builder.extract_value(result, i) for i in range(4)]


def _rows_of(builder: Any, pair: list[Any]) -> Any:
    """An 8 x 8 matrix row after row, of the first and the second number of each lane."""
    order = [lane + WARP * half for lane in range(WARP) for half in range(2)]
    return shuffle(builder, pair[0], pair[1], order)


def _row_product(
    builder: Any, left: Any, left_rest: Any, right: list[Any], before: Any, row: int, tier: Any
) -> Any:
    """Eight sums of one row."""
    columns = range(SIDE)
    total = shuffle(builder, before, before, [SIDE * row + j for j in columns])
    for side, transposed in zip((left, left_rest), right, strict=True):
        for k in columns:
            factor = splat(builder, builder.extract_element(side, I32(SIDE * row + k)), SIDE)
            column = shuffle(builder, transposed, transposed, [SIDE * j + k for j in columns])
            total = fused(builder, factor, column, total, tier)
    return total


def _end_to_end(builder: Any, parts: list[Any]) -> Any:
    """Vectors of one length as one; their number is a power of two."""
    while len(parts) > 1:
        length = range(2 * parts[0].type.count)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [shuffle(builder, first, second, list(length)) for first, second in pairs]
    return parts[0]


def load_matrices(
    builder: Any, addresses: Any, offset: int, tier: Any, *, is_transposed: bool = False
) -> list[Any]:
    """Four 8 x 8 matrices of shared memory, one word each.

    Lane ``8 * i + r`` gives the address of row ``r`` of matrix ``i``, less ``offset``; rows are 16
    bytes.
    """
    if not isinstance(addresses.type, ir.VectorType):
        order = ".trans" if is_transposed else ""
        words = ir.LiteralStructType([I32] * 4)
        loading = ir.InlineAsm(
            ir.FunctionType(words, [I32]),
            f"ldmatrix.sync.aligned.m8n8.x4{order}.shared.b16 {{$0, $1, $2, $3}}, [$4+{offset}];",
            "=r,=r,=r,=r,r,~{memory}",
            side_effect=True,
        )
        result = builder.call(loading, [addresses], attrs=("convergent",))
        return [builder.extract_value(result, i) for i in range(4)]

    def build(b: Any, addresses: Any, offset: Any) -> Any:
        result = ir.Constant(struct, ir.Undefined)
        for matrix in range(4):
            rows = []
            for row in range(SIDE):
                at = b.add(b.extract_element(addresses, I32(SIDE * matrix + row)), offset)
                kind = ir.VectorType(I32, 4)
                rows.append(b.load(b.inttoptr(at, kind.as_pointer()), align=16))
            words = _end_to_end(b, rows)
            result = b.insert_value(result, _transposed(b, words) if is_transposed else words,
                                    matrix)  # fmt: skip
        return result

    struct = ir.LiteralStructType([lanes_llvm("i32", WARP)] * 4)
    name = "load_transposed" if is_transposed else "load_matrices"
    kinds = [addresses.type, addresses.type.element]
    function = helper(builder, name, struct, kinds, build)
    result = builder.call(function, [addresses, ir.Constant(addresses.type.element, offset)])
    return [builder.extract_value(result, i) for i in range(4)]


def _transposed(builder: Any, words: Any) -> Any:
    """The CPU form's words of a matrix that is turned over."""
    halves = builder.bitcast(words, ir.VectorType(ir.IntType(16), 2 * WARP))
    order = [SIDE * column + row for row in range(SIDE) for column in range(SIDE)]
    return builder.bitcast(shuffle(builder, halves, halves, order), words.type)


def matrix_rows(
    builder: Any, lane: Any, stride: int, column_bytes: int, *, is_row_first: bool
) -> Any:
    """Where each lane finds its row of four matrices that are two by two, as ``i32``.

    ``stride`` bytes are between rows, ``column_bytes`` between matrices side by side. The second
    matrix lies below the first where ``is_row_first``, else beside it.
    """
    row = builder.and_(lane, each(lane.type, SIDE - 1))
    odd = builder.and_(builder.lshr(lane, each(lane.type, 3)), each(lane.type, 1))
    late = builder.lshr(lane, each(lane.type, 4))
    down, right = (odd, late) if is_row_first else (late, odd)
    row = builder.add(row, builder.mul(down, each(lane.type, SIDE)))
    return builder.add(
        builder.mul(row, each(lane.type, stride)),
        builder.mul(right, each(lane.type, column_bytes)),
    )
