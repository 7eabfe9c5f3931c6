"""Steps of a model over stages: takes segments from a scheduler, returns what the last stage gives.

``pipeline`` decides what goes to which stage, and in which order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from edgellama.cluster.driver.rounds import Part
from edgellama.cluster.driver.spread_sequence import SpreadSequence
from edgellama.cluster.stages.adapter_uses import uses_of
from edgellama.cluster.stages.stage_hooks import HookFailedError
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import EdgellamaError
from edgellama.sampling.share_order import choice_of

if TYPE_CHECKING:
    from edgellama.cluster.driver.beginnings import Beginnings
    from edgellama.cluster.driver.pipeline import Pipeline
    from edgellama.cluster.stages.next_token import NextToken
    from edgellama.cluster.stages.stage_call import Answer
    from edgellama.engine.scheduling.cancellation import CancelToken
    from edgellama.engine.steps.segments import Segment


class SpreadSteps:
    """Runs one step at a time, none once ``is_closed``; ``num_jobs`` grows with every step."""

    def __init__(self, pipeline: Pipeline, beginnings: Beginnings, vocab_size: int) -> None:
        self._pipeline, self._beginnings, self._vocab_size = pipeline, beginnings, vocab_size
        self.is_closed = False
        self.num_jobs = 0

    def run(
        self, segments: Sequence[Segment], cancelled: CancelToken | None
    ) -> list[FloatRows] | None:
        """One step for the scheduler; None if it must ask again, or was cancelled."""
        if self.is_closed:
            raise EdgellamaError("this model is closed")
        sequences = [cast(SpreadSequence, segment.cache) for segment in segments]
        parts = [
            Part(
                sequence.number,
                sequence.tokens,
                segment.position,
                segment.tokens.astype(np.int32),
                segment.wanted,
                sequence.prompt_length,
                sequence.order,
                uses_of(sequence.adapters),
            )
            for sequence, segment in zip(sequences, segments, strict=True)
        ]
        self.num_jobs += 1
        self._beginnings.trim()
        for sequence in sequences:
            sequence.last_order = None
        try:
            answers = self._pipeline.run(parts, cancelled)
        except BaseException as error:
            # Calls may still be on their way to stages, so the sequences get new numbers there.
            for sequence in sequences:
                sequence.renew()
            if isinstance(error, HookFailedError):
                raise error.cause from None
            raise
        if answers is None:
            return None
        results = [self._result(sequence, answers[sequence.number]) for sequence in sequences]
        # The scheduler reports a sequence's failure to its waiting caller before its next step.
        if any(sequence.failure for sequence in sequences):
            return None
        for sequence in sequences:
            sequence.last_order = choice_of(sequence.order)
        return results

    def run_next(self, given: NextToken, sequence: SpreadSequence) -> FloatRows | None:
        """The same for a sequence whose last step was its own; None if a token is not like it.

        Nobody else may run a step meanwhile.
        """
        order, sequence.next_order = sequence.next_order, None
        try:
            found = self._pipeline.run_next(given)
        except BaseException:
            # The call may still be on its way to stages, so the sequence gets a new number there.
            sequence.renew()
            raise
        if found is None:
            sequence.next_order = order
            return None
        self.num_jobs += 1
        found = found.copy()
        sequence.append((given.token,))
        return found

    def _result(self, sequence: SpreadSequence, answers: list[Answer]) -> FloatRows:
        """The rows of one part; its sequence's failure if there is none."""
        rows = [answer for answer in answers if isinstance(answer, np.ndarray) and len(answer)]
        errors = [answer for answer in answers if isinstance(answer, EdgellamaError)]
        if errors:
            sequence.failure = errors[0]
        return np.concatenate(rows) if rows else np.empty((0, self._vocab_size), np.float32)
