"""Cells: results that one loop computes side by side, each a row of weights times a token.

A cell holds the addresses of a row, of a token's activations and of the result, or 0 if nobody
wants the result. A pair is a cell of two rows and two results that share vectors. A kernel's code
for one cell is applied to a tuple of cells; the compiler then computes what neighbours have in
common, such as the unpacked weights of a row or the numbers of a token, only once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.device import device


def for_cells(function: Callable[..., Any]) -> Any:
    """A device function that does for each cell what ``function`` does for one.

    It takes a tuple of its arguments that differ from cell to cell, each a tuple with an element
    for every cell, then those that all cells share, and gives a tuple of results.
    """
    one = device(function)

    @intrinsic
    def apply(typingctx, per_cell, *shared):
        kind = typingctx.resolve_value_type(one)
        own = [argument.dtype for argument in per_cell.types]
        signature = kind.get_call_type(typingctx, (*own, *shared), {})
        results = types.UniTuple(signature.return_type, len(per_cell.types[0]))

        def codegen(ctx, b, sig, args):
            call = ctx.get_function(kind, signature)
            columns = [b.extract_value(args[0], place) for place in range(len(own))]
            rest = [b.extract_value(args[1], place) for place in range(len(shared))]
            values = [
                call(b, [*(b.extract_value(column, i) for column in columns), *rest])
                for i in range(results.count)
            ]
            return ctx.make_tuple(b, results, values)

        return results(per_cell, types.StarArgTuple(shared)), codegen

    return apply


@intrinsic
def for_each_of(typingctx, cells, value):
    """The same value for every cell."""
    values = types.UniTuple(value, len(cells))

    def codegen(ctx, b, sig, args):
        return ctx.make_tuple(b, values, [args[1]] * len(cells))

    return values(cells, value), codegen


def _cell_at(place, row, last, token, num_tokens, weights, row_bytes, x, x_stride, y, y_stride):
    """The cell at a place; past the end one that exists, whose result nobody wants."""
    row, token = row + place[0], token + place[1]
    result = y + token * y_stride + 4 * row
    if row >= last or token >= num_tokens:
        result = 0
    return (
        weights + min(row, last - 1) * row_bytes, x + min(token, num_tokens - 1) * x_stride, result,
    )  # fmt: skip


one_cell_at = device(_cell_at)


def _pair_at(place, row, last, token, num_tokens, weights, row_bytes, x, x_stride, y, y_stride):
    """The cells of a row and of the next one, as one."""
    memory = num_tokens, weights, row_bytes, x, x_stride, y, y_stride
    first_row, token_x, result = one_cell_at(place, row, last, token, *memory)
    next_row, _x, next_result = one_cell_at(place, row + 1, last, token, *memory)
    return first_row, token_x, result, next_row, next_result


@dataclass(frozen=True)
class CellTile:
    """Cells that go together: ``num_rows`` rows times ``num_tokens`` tokens."""

    num_rows: int
    num_tokens: int
    is_paired: bool = False
    """Whether two rows make one cell."""

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Of each cell, from the first: rows, tokens."""
        rows = range(1 if self.is_paired else self.num_rows)
        return tuple(product(rows, range(self.num_tokens)))

    @property
    def cells_at(self) -> Any:
        """The device function that gives the cells at the places."""
        return PAIRS_AT if self.is_paired else CELLS_AT


CELLS_AT, PAIRS_AT = for_cells(_cell_at), for_cells(_pair_at)
