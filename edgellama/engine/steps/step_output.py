"""The end of a step for the few rows that are wanted: the rest of the last layer, and logits.

Most tokens of a prompt are computed only for their keys and values, which the last layer makes
before its attention. This module knows rows and their products; ``step`` knows whose rows they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgellama.engine.program.buffers import Rows, StepBuffers
from edgellama.engine.program.llama_program import LlamaProgram
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.program.step_values import Reach, StepKind
from edgellama.engine.steps.adapted_rows import RowRange, bound_values, groups_of, ranges_among
from edgellama.engine.steps.hooked_parts import StepPart
from edgellama.engine.steps.segments import ROWS, Segment
from edgellama.engine.steps.step_kinds import StepKinds
from edgellama.engine.weights.memory import round_up
from edgellama.kernels_cpu.layouts import TOKEN_PADDING
from edgellama.quant.array_types import FloatRows
from edgellama.quant.llama_tensors import OUTPUT

LOGIT_ROWS = 64
"""Tokens whose logits are computed together."""
NARROW_SHARE = 0.5
"""Of a step's rows: where no more are wanted, the others end with the last layer's attention."""
REST, HEAD = "rest", "head"
"""Whose ranges of rows a bound value is of."""


class StepOutput:
    """Writes the parts of steps over the rows that are wanted of a body."""

    def __init__(self, vocab_size: int, buffers: StepBuffers, kinds: StepKinds) -> None:
        self._buffers, self._kinds = buffers, kinds
        self.shared_rows = buffers.logits(vocab_size, LOGIT_ROWS)
        self._strides = buffers.strides | {self.shared_rows.stride}

    @property
    def logits(self) -> FloatRows:
        """The logits of the last ``head`` into ``shared_rows``, a view without padded columns.

        (LOGIT_ROWS and more, vocab_size); only the rows that the ``head`` computed are valid.
        """
        return self.shared_rows.array[:, : self.shared_rows.width]

    def logit_rows(self, writer: LlamaProgram, num_rows: int, ranges: Sequence[RowRange]) -> Rows:
        """Where the logits of so many rows are written: memory of their own for many.

        A few go to ``shared_rows``, which the next step overwrites, and where the step is found
        that a next token repeats. So do those that hooks or adapters change, and those of a
        vocabulary whose columns are padded.
        """
        columns = self.shared_rows.array.shape[1]
        is_padded = columns != self.shared_rows.width
        is_shared = is_padded or bool(writer.hooks or ranges) or num_rows <= MAX_SHORT_TOKENS
        if is_shared:
            return self.shared_rows
        # The last head begins at a multiple of LOGIT_ROWS, which is none of whole tiles. So its
        # last tile may end behind a whole number of tiles.
        padded = round_up(num_rows, TOKEN_PADDING) + TOKEN_PADDING
        return Rows(np.empty((padded, columns), np.float32), columns)

    def result_rows(self, written: Rows, num_rows: int) -> FloatRows:
        """Logits that no later step changes: ``written`` itself, or a copy yet to be made."""
        if written is self.shared_rows:
            return np.empty((num_rows, written.width), np.float32)
        return written.array[:num_rows]

    def copy_if_shared(self, written: Rows, results: FloatRows) -> None:
        """Copy what a ``head`` has written to ``results``, if the next one overwrites it."""
        if written is self.shared_rows:
            results[:] = self.logits[: len(results)]

    def reach_of(self, kind: StepKind, segments: Sequence[Segment], rows: Sequence[int]) -> Reach:
        """How far the body of a step without hooks goes, of which ``rows`` are wanted."""
        num_tokens = sum(segment.num_tokens for segment in segments)
        if kind.batch != "many" or any(segment.wanted in ROWS for segment in segments):
            return "end"
        if not rows:
            return "stored"
        return "attended" if len(rows) <= NARROW_SHARE * num_tokens else "end"

    def gather(self, rows: Sequence[int], reach: Reach) -> None:
        """Move what the body has left of ``rows``, which ascend, to the front."""
        # Rows ascend, so none is overwritten before it is read.
        b, chosen = self._buffers, list(rows)
        for array in (b.residual.array, b.attended.array)[: 2 if reach == "attended" else 1]:
            array[: len(chosen)] = array[chosen]

    def rest(
        self, writer: LlamaProgram, rows: Sequence[int], ranges: Sequence[RowRange]
    ) -> StepPart:
        """The last layer from its attention on, of rows that have been gathered."""
        batch = self._kinds.batch_like_many(len(rows))
        ranges = ranges_among(ranges, rows)
        groups = groups_of(ranges, self._kinds.batch_like_many, len(rows))
        adapted = replace(writer, adapters=replace(writer.adapters, groups=groups, prefix=REST))
        values = {"num_outputs": len(rows)} | bound_values(ranges, REST, self._strides)
        return StepPart((REST, batch, groups), lambda: adapted.rest(batch), values)

    def head(
        self,
        writer: LlamaProgram,
        rows: Sequence[int],
        ranges: Sequence[RowRange],
        first: int,
        logits: int,
        is_alike: bool = False,
    ) -> StepPart:
        """Logits of ``rows``, which lie side by side from ``first`` on, to an address."""
        batch = self._kinds.batch_of(len(rows), is_alike)
        ranges = ranges_among(ranges, rows, OUTPUT)
        groups = groups_of(ranges, self._kinds.batch_of, len(rows))
        adapted = replace(writer, adapters=replace(writer.adapters, groups=groups, prefix=HEAD))
        residual: Rows = self._buffers.residual
        values = {"num_outputs": len(rows), "first_row": residual.address + first * residual.stride}
        values["logits"] = logits
        values |= bound_values(ranges, HEAD, self._strides)
        return StepPart(
            (HEAD, batch, groups), lambda: adapted.head(batch, self.shared_rows), values
        )

    def heads(
        self, writer: LlamaProgram, rows: Sequence[int], ranges: Sequence[RowRange], written: Rows
    ) -> Iterator[tuple[int, StepPart]]:
        """Logits of gathered rows, LOGIT_ROWS at a time, and the first of each.

        They go to ``written``: into shared rows always to the front, so copy them before the next;
        into rows of their own one behind another.
        """
        # Heads run in their order: a last tile may reach into the rows that the next head writes.
        for first in range(0, len(rows), LOGIT_ROWS):
            start = 0 if written is self.shared_rows else first
            logits = written.address + start * written.stride
            yield first, self.head(writer, rows[first : first + LOGIT_ROWS], ranges, first, logits)
