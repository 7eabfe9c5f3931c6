"""Sends rounds of calls through the stages: with a thread for each stage, or one after another.

While a stage computes one round, the stage before it computes the next. ``pipeline`` handles a
stage that is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from edgellama.cluster.stages.stage_call import Answer, Behind, StageCall, StageHandle
from edgellama.cluster.stages.stage_hooks import HookFailedError
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.quant.errors import EdgellamaError


class Lost(Exception):
    """A stage has failed to answer."""

    def __init__(self, number: int, cause: Exception) -> None:
        super().__init__(number, cause)
        self.number, self.cause = number, cause


class Passage:
    """The way through ``stages`` in order, with a thread for each."""

    def __init__(self, stages: Sequence[StageHandle]) -> None:
        self._stages = stages
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix=f"edgellama-stage-{number}")
            for number in range(len(stages))
        ]

    def through(
        self, rounds: list[list[StageCall]], cancelled: CancelToken | None, *, is_in_turn: bool
    ) -> list[tuple[StageCall, Answer]] | None:
        """Every call with the last stage's answer, or an earlier one that ends its way.

        ``is_in_turn``: one stage computes at a time, on the thread that calls. None if cancelled;
        raises Lost for a stage that has failed, and HookFailedError.
        """
        if is_in_turn:
            return self._in_turn(rounds, cancelled)
        lasts: list[Future[_Round]] = []
        futures: list[Future[_Round]] = []
        for calls in rounds:
            before: Future[_Round] | None = None
            for number in range(len(self._stages)):
                threads, one = self._threads[number], _Round(calls)
                before = threads.submit(self._advanced, one, before, number, cancelled)
                futures.append(before)
            assert before is not None
            lasts.append(before)
        try:
            done = [future.result() for future in lasts]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
        if cancelled is not None and cancelled.cancelled:
            return None
        return [pair for one in done for pair in one.ended]

    def _in_turn(
        self, rounds: list[list[StageCall]], cancelled: CancelToken | None
    ) -> list[tuple[StageCall, Answer]] | None:
        ended = []
        for calls in rounds:
            if len(rounds) > 1 and cancelled is not None and cancelled.cancelled:
                return None
            found = _Round(calls)
            for number in range(len(self._stages)):
                self._advance(found, number)
            ended += found.ended
        return ended

    def _advanced(
        self,
        first: _Round,
        before: Future[_Round] | None,
        number: int,
        cancelled: CancelToken | None,
    ) -> _Round:
        """A round after one more stage, on that stage's thread."""
        found = first if before is None else before.result()
        if cancelled is None or not cancelled.cancelled:
            self._advance(found, number)
        return found

    def _advance(self, one: _Round, number: int) -> None:
        """Let a stage compute what is left of a round."""
        if not one.left:
            return
        stage = self._stages[number]
        try:
            answers = stage.run(one.left)
        except HookFailedError:
            raise
        except Exception as error:
            raise Lost(number, error) from error
        one.take(answers, is_last=number == len(self._stages) - 1)

    def close(self) -> None:
        """End the threads."""
        for threads in self._threads:
            threads.shutdown(wait=False, cancel_futures=True)


class _Round:
    """Calls on their way; ``ended`` are those that have their answer."""

    def __init__(self, calls: list[StageCall]) -> None:
        self.left = calls
        self.ended: list[tuple[StageCall, Answer]] = []

    def take(self, answers: Sequence[Answer], is_last: bool) -> None:
        """Pass rows on to the next stage; everything else ends the call."""
        left = []
        for call, answer in zip(self.left, answers, strict=True):
            if is_last or isinstance(answer, (Behind, EdgellamaError)):
                self.ended.append((call, answer))
            else:
                left.append(call.with_rows(answer))
        self.left = left
