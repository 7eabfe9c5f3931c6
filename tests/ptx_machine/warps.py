"""What lanes of a warp do together: shuffles, matrices from shared memory, products of matrices.

Fragments are as the ISA has them. With g = lane / 4 and t = lane % 4 element i of a lane is at
A: row g (+ 8 for i in 2, 3, 6, 7), column 2 t + i % 2 (+ 8 for i >= 4); B: row 2 t + i % 2 (+ 8 for
i >= 2), column g; C and D: row g (+ 8 for i >= 2), column 2 t + i % 2. With 8 columns of A the
elements from 4 on, and those of B from 2 on, are not there.
"""

from __future__ import annotations

import numpy as np

from ptx_machine.faults import Array
from ptx_machine.numbers import bfloats

WARP = 32
SIDE = 8


def _elements(count: int) -> tuple[Array, Array, Array]:
    """g, t and i of every lane's elements, (lanes, elements)."""
    lane, i = np.meshgrid(np.arange(WARP), np.arange(count), indexing="ij")
    return lane // 4, lane % 4, i


def _left(depth: int) -> Array:
    g, t, i = _elements(depth // 2)
    row = g + 8 * (i // 2 % 2)
    return np.asarray(row * depth + 2 * t + i % 2 + 8 * (i // 4))


def _right(depth: int) -> Array:
    g, t, i = _elements(depth // 4)
    return np.asarray((2 * t + i % 2 + 8 * (i // 2)) * SIDE + g)


def _sums() -> Array:
    g, t, i = _elements(4)
    return np.asarray((g + 8 * (i // 2)) * SIDE + 2 * t + i % 2)


SUMS = _sums()


def _matrices(words: list[Array], kind: str, places: Array, rows: int, columns: int) -> Array:
    """A matrix of each warp, f32, from its lanes' words: two numbers each, the low one first."""
    if kind == "f32":
        numbers = np.stack([word.view("f4") for word in words], -1)
    else:
        halves = np.ascontiguousarray(np.stack(words, -1)).view("u2")
        numbers = halves.view("f2").astype("f4") if kind == "f16" else bfloats(halves)
    result = np.empty((len(words[0]) // WARP, rows * columns), "f4")
    result[:, places.ravel()] = numbers.reshape(len(result), -1)
    return result.reshape(-1, rows, columns)


def multiply_add(
    kind: str, depth: int, left: list[Array], right: list[Array], sums: list[Array]
) -> list[Array]:
    """mma.m16n8k``depth``: A x B + C with sums in f32, words of all lanes of all warps."""
    a = _matrices(left, kind, _left(depth), 2 * SIDE, depth)
    b = _matrices(right, kind, _right(depth), depth, SIDE)
    c = _matrices(sums, "f32", SUMS, 2 * SIDE, SIDE)
    numbers = (np.matmul(a, b) + c).reshape(len(a), -1)[:, SUMS]
    return [np.ascontiguousarray(numbers[:, :, i]).reshape(-1).view("u4") for i in range(4)]


def spread_matrices(rows: Array, *, is_transposed: bool) -> list[Array]:
    """ldmatrix .m8n8.x4 of 16 bits: ``rows`` (lanes, 4 words) are at each lane's address.

    Lanes 8 m to 8 m + 7 have given the rows of matrix m. Of each matrix a lane gets row lane / 4,
    elements 2 (lane % 4) and the next; of the transposed one, where that is asked for.
    """
    matrices = np.ascontiguousarray(rows).view("u2").reshape(-1, 4, SIDE, SIDE)
    if is_transposed:
        matrices = matrices.swapaxes(2, 3)
    words = np.ascontiguousarray(matrices).view("u4").reshape(-1, 4, WARP)
    return [np.ascontiguousarray(words[:, matrix]).reshape(-1) for matrix in range(4)]


def source_lanes(mode: str, lane: Array, operand: Array, control: Array) -> Array:
    """The lane whose number shfl gives to each; its own where that is out of range."""
    clamp, segments = control & np.uint32(31), control >> np.uint32(8) & np.uint32(31)
    lane, operand = lane.astype("u4"), operand & np.uint32(31)
    last = (lane & segments) | (clamp & ~segments)
    chosen = (lane & segments) | (operand & ~segments)
    source = lane ^ operand if mode == "bfly" else chosen
    return np.asarray(np.where(source <= last, source, lane).astype("i8"))
