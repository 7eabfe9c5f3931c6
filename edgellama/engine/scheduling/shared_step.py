"""One step of several works: gets memory for their tokens, and delivers the results.

If a graphics card has no room for a sequence, or has lost it, only the works of that sequence get
an error. ``scheduler`` decides which works share a step, and who runs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.returning import Returning
from edgellama.engine.scheduling.step_costs import StepCosts
from edgellama.engine.scheduling.work import Work
from edgellama.engine.steps.segments import Segment
from edgellama.quant.errors import CudaError, CudaMemoryError, EdgellamaError

RunStep = Callable[[Sequence[Segment], CancelToken | None], "list[npt.NDArray[np.float32]] | None"]
"""Computes segments: their logits, or None if the token has stopped it."""


class SharedStep:
    """Runs segments of works by ``run_step``; ``returning`` and ``costs`` learn from each step."""

    def __init__(self, run_step: RunStep, returning: Returning, costs: StepCosts) -> None:
        self.run_step = run_step
        self._returning, self._costs = returning, costs

    def run(self, chosen: Sequence[tuple[Work, Segment]], works: Sequence[Work]) -> Sequence[Work]:
        """Run the step and deliver what it gives; the works that it has brought further.

        ``works`` are the driver's own, which may cancel it.
        """
        prepared = [(work, _prepared(work, segment)) for work, segment in chosen]
        chosen = [(work, segment) for work, segment in prepared if segment is not None]
        if not chosen:
            return ()
        flag = next((work.cancelled for work, _ in chosen if work in works), None)
        started = time.perf_counter()
        try:
            results = self.run_step([segment for _, segment in chosen], flag)
        except CudaMemoryError as error:
            for work, segment in chosen:
                _retreat(work, segment, error)
            return ()
        except CudaError as error:
            # What lies on a card is lost for all, whoever drives.
            for work, _ in chosen:
                work.error = error
                work.ring()
            return ()
        if results is None:
            return ()  # The driver's own work was cancelled, which the next check finds.
        seconds = self._returning.last_step_s = time.perf_counter() - started
        self._costs.note_together([segment.num_tokens for _, segment in chosen], seconds)
        for (work, segment), logits in zip(chosen, results, strict=True):
            work.deliver(segment, logits)
            if segment.num_tokens <= MAX_SHORT_TOKENS:
                self._returning.note(work.cache, time.perf_counter())
        return [work for work, _ in chosen]


def _prepared(work: Work, segment: Segment) -> Segment | None:
    """A segment with memory for its tokens; if there is none, that is its work's error alone.

    A sequence that a graphics card has no room for leaves it, and waits for the next step.
    """
    try:
        return work.prepared(segment)
    except CudaMemoryError as error:
        _retreat(work, segment, error)
    except EdgellamaError as error:
        work.error = error
        work.ring()
    return None


def _retreat(work: Work, segment: Segment, reason: CudaMemoryError) -> None:
    """Let a sequence leave a card that has no room; its work waits for the next step."""
    try:
        segment.cache.retreat(reason)
    except EdgellamaError as error:
        work.error = error
        work.ring()
