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
        self.rows = buffers.logits(vocab_size, LOGIT_ROWS)
        self._strides = buffers.strides | {self.rows.stride}

    @property
    def logits(self) -> FloatRows:
        """What a ``head`` into ``rows`` has written (LOGIT_ROWS, vocab_size)."""
        return self.rows.array[:, : self.rows.width]

    def room(self, writer: LlamaProgram, num_rows: int, ranges: Sequence[RowRange]) -> Rows:
        """Where the logits of so many rows are written: memory of their own for many.

        A few go to ``rows``, which the next step overwrites, and where the step is found that a
        next token repeats. So do those that hooks or adapters change.
        """
        columns = self.rows.array.shape[1]
        is_fixed = writer.hooks or ranges or columns != self.rows.width
        if is_fixed or num_rows <= MAX_SHORT_TOKENS:
            return self.rows
        padded = round_up(num_rows, TOKEN_PADDING) + TOKEN_PADDING
        return Rows(np.empty((padded, columns), np.float32), columns)

    def kept(self, room: Rows, num_rows: int) -> FloatRows:
        """Logits that no later step changes: the room's own, or what ``keep`` copies them to."""
        if room is self.rows:
            return np.empty((num_rows, room.width), np.float32)
        return room.array[:num_rows]

    def keep(self, room: Rows, logits: FloatRows) -> None:
        """Copy what a ``head`` has written, if the next overwrites it."""
        if room is self.rows:
            logits[:] = self.logits[: len(logits)]

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
        # None is overwritten before it is read.
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
        return StepPart((HEAD, batch, groups), lambda: adapted.head(batch, self.rows), values)

    def heads(
        self, writer: LlamaProgram, rows: Sequence[int], ranges: Sequence[RowRange], room: Rows
    ) -> Iterator[tuple[int, StepPart]]:
        """Logits of gathered rows, LOGIT_ROWS at a time, and the first of each."""
        for first in range(0, len(rows), LOGIT_ROWS):
            # Tiles may reach into the rows that come next.
            start = 0 if room is self.rows else first
            logits = room.address + start * room.stride
            yield first, self.head(writer, rows[first : first + LOGIT_ROWS], ranges, first, logits)
