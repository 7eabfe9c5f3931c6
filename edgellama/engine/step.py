"""One step: segments of several sequences in, the logits that are wanted of them out.

Chooses the kernels for the step, fills the table of segments and the positions, runs the program.
It knows neither who asked nor in which order; one step runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.engine.buffers import Rows, StepBuffers, attention_tokens
from edgellama.engine.llama_program import InputObserver, LlamaProgram
from edgellama.engine.page_layout import PageLayout
from edgellama.engine.program import Op
from edgellama.engine.rope import RopeTable
from edgellama.engine.segments import Segment, SegmentTable
from edgellama.engine.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.step_values import Attending, Batch, StepKind
from edgellama.engine.weights import ModelWeights
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.quant.model_config import ModelConfig

LOGIT_ROWS = 64
"""Tokens whose logits are computed together."""
FloatRows: TypeAlias = npt.NDArray[np.float32]
RunOps: TypeAlias = Callable[[tuple[object, ...], Callable[[], list[Op]], "dict[str, int]"], bool]
"""Runs ops, which are asked for once for each key, with values bound; False: cancelled."""


class StepRunner:
    """Steps of one model on one set of buffers."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        tier: Tier,
        num_threads: int,
        *,
        layers: range,
        is_exact: bool = False,
        observer: InputObserver | None = None,
    ) -> None:
        """``is_exact``: one order of sums for one token and for many, see ``kind_of``."""
        self._config = config
        self._is_exact = is_exact
        self._rope = RopeTable(config.rope, weights.rope_freqs)
        self.buffers = b = StepBuffers(config, tier, num_threads, self._rope.row_numbers)
        self._block_positions = b.panel_rows
        self._table = SegmentTable(
            config.head_count_kv, b.panel_rows, int(b.partials.ctypes.data), b.token_split_bytes
        )
        self._writer = LlamaProgram(
            config, weights, b, self._table.address, num_threads, layers, is_exact, observer
        )
        self._logits = b.logits(config.vocab_size, LOGIT_ROWS)

    def kind_of(self, num_tokens: int, is_prompt: bool) -> StepKind:
        """Which kernels a step of so many tokens takes; ``is_prompt``: many of one sequence.

        Exact steps take no kernel that adds up in another order than those for many tokens.
        """
        attending: Attending = "packed" if is_prompt and not self._is_exact else "direct"
        return StepKind(self._batch_of(num_tokens), attending)

    def ops(self, kind: StepKind, pages: PageLayout) -> list[Op]:
        """The ops of a step and of the logits of its last token."""
        return self._writer.body(kind, pages) + self._writer.head(self._batch_of(1), self._logits)

    def run(self, segments: Sequence[Segment], run_ops: RunOps) -> list[FloatRows] | None:
        """Logits (0, 1 or all tokens, vocab_size) of each segment; None if it was cancelled.

        The caller has made room for the tokens, and counts them as stored afterwards.
        """
        num_tokens = self._fill(segments)
        is_prompt = any(segment.num_tokens > MAX_SHORT_TOKENS for segment in segments)
        kind, pages = self.kind_of(num_tokens, is_prompt), segments[0].cache.layout
        self._table.fill(
            segments, attention_tokens(self._config, kind.attending), kind.attending == "direct"
        )
        rows = _wanted_rows(segments)
        values = {"num_tokens": num_tokens, "num_segments": len(segments)}
        if 0 < len(rows) <= LOGIT_ROWS and rows[-1] - rows[0] == len(rows) - 1:
            batch = self._batch_of(len(rows))
            values |= {"num_outputs": len(rows), "first_row": self._residual_row(rows[0])}

            def whole() -> list[Op]:
                return self._writer.body(kind, pages) + self._writer.head(batch, self._logits)

            if not run_ops(("step", kind, pages.types, batch), whole, values):
                return None
            return _shares(segments, self._logits.array[: len(rows), : self._config.vocab_size])
        if not run_ops(("body", kind, pages.types), lambda: self._writer.body(kind, pages), values):
            return None
        parts = list(self._heads(rows, run_ops))
        if any(part is None for part in parts):
            return None
        empty = np.empty((0, self._config.vocab_size), np.float32)
        return _shares(segments, np.concatenate([empty, *(p for p in parts if p is not None)]))

    def _heads(self, rows: Sequence[int], run_ops: RunOps) -> Iterator[FloatRows | None]:
        """Logits of rows of the step that has just run, LOGIT_ROWS at a time."""
        residual = self.buffers.residual.array
        # Rows only ever move towards the front, so that none is overwritten before it is read.
        residual[: len(rows)] = residual[list(rows)]
        for first in range(0, len(rows), LOGIT_ROWS):
            count = min(LOGIT_ROWS, len(rows) - first)
            batch = self._batch_of(count)
            values = {"num_outputs": count, "first_row": self._residual_row(first)}
            ops = partial(self._writer.head, batch, self._logits)
            if not run_ops(("head", batch), ops, values):
                yield None
                return
            yield self._logits.array[:count, : self._config.vocab_size].copy()

    def _fill(self, segments: Sequence[Segment]) -> int:
        """Token ids and positions of all segments; how many tokens they have."""
        row = 0
        for segment in segments:
            end = row + segment.num_tokens
            self.buffers.token_ids[row:end] = segment.tokens
            self._rope.fill(self.buffers.cos_sin[row:end], segment.position, segment.num_tokens)
            row = end
        return row

    def _batch_of(self, num_tokens: int) -> Batch:
        if num_tokens == 1 and not self._is_exact:
            return "one"
        return "few" if num_tokens <= MAX_SHORT_TOKENS else "many"

    def _residual_row(self, row: int) -> int:
        """Address of what the last body left of a token of its step."""
        residual: Rows = self.buffers.residual
        return residual.address + row * residual.stride


def _wanted_rows(segments: Sequence[Segment]) -> list[int]:
    """Rows of a step whose logits are wanted."""
    rows: list[int] = []
    start = 0
    for segment in segments:
        end = start + segment.num_tokens
        if segment.logits == "last":
            rows.append(end - 1)
        elif segment.logits == "all":
            rows += range(start, end)
        start = end
    return rows


def _shares(segments: Sequence[Segment], logits: FloatRows) -> list[FloatRows]:
    """Each segment's own rows, as arrays that stay."""
    shares: list[FloatRows] = []
    start = 0
    for segment in segments:
        counts = {"none": 0, "last": 1, "all": segment.num_tokens}
        end = start + counts[segment.logits]
        shares.append(logits[start:end].copy())
        start = end
    return shares
