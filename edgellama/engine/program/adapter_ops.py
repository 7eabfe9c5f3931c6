"""The kernel calls that adapters add to matrix products: hidden numbers, scales, their share.

For the rows of each group, the ops of ``into`` run beside the products, and those of ``out_of``
after them. If one adapter applies to all rows of a long step, kernels add its share themselves, and
``before`` prepares the input. Without groups, nothing is added. Kernels for many rows write whole
tiles, so hidden rows after the last one are zero, and groups wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TypeAlias, get_args

from edgellama.engine.program.buffers import InputRows, Rows, StepBuffers, quantized_strides
from edgellama.engine.program.matrix_kernels import chunk_rows, kernel_of, layout_of, takes_tiles
from edgellama.engine.program.program import Arguments, Bound, Op
from edgellama.engine.program.step_values import Batch
from edgellama.engine.weights.adapter import Adapter
from edgellama.engine.weights.adapter_set import AdapterSet, Hidden, PlacedPair
from edgellama.engine.weights.weights import Matrix
from edgellama.kernels_cpu.layouts import TOKEN_PADDING, records_bytes
from edgellama.kernels_cpu.signatures import QUANTIZED, SIGNATURES, Kernel
from edgellama.quant.model_config import EMBEDDING
from edgellama.quant.records import dataclass

Product: TypeAlias = tuple[Matrix, InputRows, Rows]
"""A matrix, its input and where its output goes."""
TOKEN_BYTES = 4
"""Of a token's id."""


@dataclass(frozen=True)
class AdaptedGroup:
    """Neighbouring rows with the same adapters, as far as their ops depend on them.

    ``batch``: how these rows are multiplied; ``is_whole``: they are all rows of the step.
    """

    adapters: AdapterSet
    batch: Batch
    is_whole: bool = False


@dataclass(frozen=True)
class AdapterOps:
    """Writes the ops of all groups of a step, or of its logits; ``prefix`` tells the two apart."""

    buffers: StepBuffers
    num_threads: int
    is_exact: bool
    groups: tuple[AdaptedGroup, ...] = ()
    prefix: str = "body"

    def adapts(self, matrices: Sequence[Matrix]) -> bool:
        """Whether any group adds to the products of any of these matrices."""
        return any(
            group.adapters.adapts(matrix.name) for group in self.groups for matrix in matrices
        )

    def can_be_added(self, batch: Batch, products: Sequence[Product]) -> bool:
        """Whether the kernels of the products add what adapters do: see ``added``."""
        matrices = [matrix for matrix, _, _ in products]
        return (
            batch == "many"
            and len(self.groups) == 1
            and self.groups[0].is_whole
            and all(matrix.is_quantized for matrix in matrices)
            and self.adapts(matrices)
            and self.groups[0].adapters.can_be_added(_names(products))
        )

    def added(self, products: Sequence[Product]) -> list[int]:
        """Where the record of what is added to each product lies."""
        records = self.groups[0].adapters.added(_names(products))
        return [int(record.ctypes.data) for record in records]

    def before(self, batch: Batch, products: Sequence[Product]) -> Iterator[Op]:
        """Hidden numbers for products that add what adapters do."""
        first = list(self.into(batch, products))
        yield from _waited_for(first)
        group = self.groups[0]
        yield self._scale(0, group, _hidden(group, products), barrier=True)

    def into(self, batch: Batch, products: Sequence[Product]) -> Iterator[Op]:
        """Hidden numbers of matrices with one input; nothing need wait for them yet.

        ``batch``: of the whole step, which decides how the input lies.
        """
        for number, group in enumerate(self.groups):
            hidden = _hidden(group, products)
            for (_, source, _), pairs in zip(products, hidden.pairs, strict=True):
                for pair in pairs:
                    yield self._first_product(number, group, hidden, pair, source, batch)

    def out_of(self, products: Sequence[Product]) -> Iterator[Op]:
        """What the hidden numbers add to the products, all of which are done."""
        chosen = [
            (number, group, hidden)
            for number, group in enumerate(self.groups)
            if (hidden := _hidden(group, products)).width
        ]
        for index, (number, group, hidden) in enumerate(chosen):
            yield self._scale(number, group, hidden, barrier=index == len(chosen) - 1)
        targets = [target for _, _, target in products]
        for number, group, hidden in chosen:
            yield from self._second_products(number, group, hidden, targets)

    def embedding(self, table: Matrix, target: Rows) -> Iterator[Op]:
        """What is added to the rows of the embedding."""
        for number, group in enumerate(self.groups):
            hidden = group.adapters.hidden((table.name,))
            if not hidden.width:
                continue
            for pair in hidden.pairs[0]:
                yield self._look_up(number, group, hidden, pair)
            yield self._scale(number, group, hidden, barrier=True)
            yield from self._second_products(number, group, hidden, [target])

    def _second_products(
        self, number: int, group: AdaptedGroup, hidden: Hidden, targets: Sequence[Rows]
    ) -> Iterator[Op]:
        """One adapter after the other, since all add to the same rows."""
        for turn in zip_longest(*hidden.pairs):
            yield from _waited_for(
                [
                    self._second_product(number, group, hidden, pair, target)
                    for pair, target in zip(turn, targets, strict=True)
                    if pair is not None
                ]
            )

    def _first_product(
        self,
        number: int,
        group: AdaptedGroup,
        hidden: Hidden,
        pair: PlacedPair,
        source: InputRows,
        batch: Batch,
    ) -> Op:
        matrix, own_batch = pair.factors.a, group.batch
        if not matrix.is_quantized:
            arguments: Arguments = {
                "x": row_address(self.prefix, number, source.address, source.stride),
                "x_stride": source.stride,
            }
        elif batch == "one":
            q = source.quantized.arguments(layout_of(batch))["q"]
            arguments = {"x": q, "x_stride": records_bytes(matrix.num_columns)}
        else:
            # A row that is one of several has their layout, which "one" does not read.
            own_batch = "two" if own_batch == "one" else own_batch
            arguments = self._quantized_input(number, source)
        arguments |= self._hidden_rows("y", group, hidden, pair.column) | {"accumulate": 0}
        return self._product(number, own_batch, matrix, arguments)

    def _quantized_input(self, number: int, source: InputRows) -> Arguments:
        """Where the int8 rows of a group begin."""
        arrays = source.quantized.arguments(layout_of("many"))
        strides = quantized_strides(source.width)
        arguments: Arguments = dict.fromkeys(("up_weights", "added", *QUANTIZED), 0)
        for name, address in arrays.items():
            assert isinstance(address, int)
            place = row_address(self.prefix, number, address, strides[name])
            arguments[f"x{name[1:]}"] = place
        return arguments

    def _second_product(
        self, number: int, group: AdaptedGroup, hidden: Hidden, pair: PlacedPair, target: Rows
    ) -> Op:
        arguments: Arguments = {
            "y": row_address(self.prefix, number, target.address, target.stride),
            "y_stride": target.stride,
            "accumulate": 1,
        }
        arguments |= self._hidden_rows("x", group, hidden, pair.column)
        return self._product(number, group.batch, pair.factors.b, arguments)

    def _product(self, number: int, batch: Batch, matrix: Matrix, rows: Arguments) -> Op:
        """A product of a group's rows with no barrier behind it."""
        kernel = kernel_of(matrix, batch, self.is_exact)
        arguments: Arguments = rows | {
            "weights": matrix.address,
            "row_bytes": matrix.row_bytes,
            "num_rows": matrix.num_rows,
            "num_columns": matrix.num_columns,
            "num_tokens": num_rows(self.prefix, number),
            "chunk_rows": chunk_rows(matrix, self.num_threads),
            "scratch": self.buffers.scratch_address,
            "scratch_stride": self.buffers.scratch_bytes,
        }
        taken = {p: arguments[p] for p in SIGNATURES[kernel].parameters[:-1]}
        return Op(kernel, taken, barrier=False, label=matrix.name)

    def _look_up(self, number: int, group: AdaptedGroup, hidden: Hidden, pair: PlacedPair) -> Op:
        table = pair.factors.a
        tokens = int(self.buffers.token_ids.ctypes.data)
        arguments: Arguments = {
            "weights": table.address,
            "row_bytes": table.row_bytes,
            "num_columns": table.num_columns,
            "tokens": row_address(self.prefix, number, tokens, TOKEN_BYTES),
            "num_tokens": num_rows(self.prefix, number),
        }
        arguments |= self._hidden_rows("y", group, hidden, pair.column)
        return Op(Kernel("embed", (table.format_name,)), arguments, label=table.name)

    def _scale(self, number: int, group: AdaptedGroup, hidden: Hidden, barrier: bool) -> Op:
        arguments = self._hidden_rows("x", group, hidden, 0) | {
            "width": hidden.width,
            "num_tokens": num_rows(self.prefix, number),
            "multiple": self._tile_rows(group.batch),
            "scales": int(hidden.scales.ctypes.data),
        }
        return Op(Kernel("scale_rows"), arguments, barrier)

    def _tile_rows(self, batch: Batch) -> int:
        """Rows that a kernel writes at a time, whether they are the group's or not."""
        return TOKEN_PADDING if takes_tiles(batch, self.is_exact) else 1

    def _hidden_rows(
        self, name: str, group: AdaptedGroup, hidden: Hidden, column: int
    ) -> Arguments:
        """A group's hidden numbers are rows of its own, from 0 on."""
        rows = group.adapters.rows(hidden.width)
        address = int(rows.ctypes.data) + rows.itemsize * column
        return {name: address, f"{name}_stride": int(rows.strides[0])}


def num_rows(prefix: str, number: int) -> Bound:
    """How many rows the range of this number has."""
    return Bound(f"{prefix} {number} rows")


def row_address(prefix: str, number: int, address: int, stride: int) -> Bound:
    """Where the first row of a range lies in rows of ``stride`` bytes at ``address``."""
    return Bound(f"{prefix} {number} x {stride}", address)


def kernels_of(adapter: Adapter) -> set[str]:
    """Names of what steps of any size need besides the model's own."""
    kernels = {Kernel("scale_rows")}
    for name, pair in adapter.pairs.items():
        for is_exact in (False, True):
            kernels |= {kernel_of(pair.b, batch, is_exact) for batch in get_args(Batch)}
            if name != EMBEDDING:
                kernels |= {kernel_of(pair.a, batch, is_exact) for batch in get_args(Batch)}
        if name == EMBEDDING:
            kernels.add(Kernel("embed", (pair.a.format_name,)))
    return {kernel.name for kernel in kernels}


def _waited_for(ops: Sequence[Op]) -> list[Op]:
    """The same ops, with a barrier behind the last."""
    return [*ops[:-1], replace(ops[-1], barrier=True)]


def _names(products: Sequence[Product]) -> tuple[str, ...]:
    return tuple(matrix.name for matrix, _, _ in products)


def _hidden(group: AdaptedGroup, products: Sequence[Product]) -> Hidden:
    return group.adapters.hidden(_names(products))
