"""The stages in order: computes a step, even if a stage is lost and must compute again.

It holds only the tokens of the step that runs. A lost stage comes back empty. Its answer tells what
it lacks of a sequence, which then goes through all stages again. ``passage`` sends the calls.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

from edgellama.cluster.driver.passage import Lost, Passage
from edgellama.cluster.driver.patience import Patience, growing_pauses
from edgellama.cluster.driver.rounds import Chunking, Part, rounds_of
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage_call import Answer, Behind, StageCall, StageHandle
from edgellama.cluster.stages.stage_task import Fork, StageTask
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import (
    EdgellamaError,
    InvalidOptionError,
    ModelFileError,
    StageLostError,
)

logger = logging.getLogger(__name__)
PATIENCE_S = 120.0
"""How long a lost stage is waited for."""


class Pipeline:
    """Drives ``stages``, which have all layers of a model in order. One thread runs at a time.

    ``is_in_turn``: one stage computes at a time, all on the thread that calls, for hooks.
    """

    def __init__(
        self, stages: Sequence[StageHandle], how: Chunking, *, patience_s: float = PATIENCE_S
    ) -> None:
        """``patience_s``: how long a lost stage is waited for before StageLostError."""
        _check_order(stages)
        self._stages = list(stages)
        self._how = how
        self._patience_s = patience_s
        self._tasks: deque[int | Fork] = deque()
        self._standing: dict[type, StageTask] = {}
        self.is_in_turn = False
        self._lost: Lost | None = None
        self._passage = Passage(self._stages)

    @property
    def stages(self) -> Sequence[StageHandle]:
        """The stages in order."""
        return tuple(self._stages)

    def retire(self, sequence: int) -> None:
        """Let stages forget a sequence before the next step; may be called at any moment."""
        self._tasks.append(sequence)

    def fork(self, task: Fork) -> None:
        """Let stages carry it out before the next step; may be called at any moment."""
        self._tasks.append(task)

    def run(
        self, parts: list[Part], cancelled: CancelToken | None = None
    ) -> dict[int, list[Answer]] | None:
        """What the last stage answers for each part's calls, in order; None if it was cancelled.

        Among the answers are errors of single calls, but none that is ``Behind``. StageLostError
        where a stage does not come back.
        """
        self._carry_out()
        held: dict[int, int] = {}
        patience, pauses = Patience(self._patience_s), growing_pauses()
        while True:
            if cancelled is not None and cancelled.cancelled:
                return None
            try:
                found, self._lost = self._lost, None
                if found is not None:
                    raise found
                rounds = rounds_of(parts, held, self._how)
                is_in_turn = self.is_in_turn or len(rounds) == 1
                answers = self._passage.through(rounds, cancelled, is_in_turn=is_in_turn)
            except Lost as lost:
                if patience.is_over():
                    raise self._end_of_patience(lost) from lost.cause
                self._revive(lost, patience, cancelled)
                time.sleep(next(pauses))
                continue
            if answers is None:
                return None
            behind = [answer for _, answer in answers if isinstance(answer, Behind)]
            if not behind:
                return {part.sequence: _answers_to(part, answers) for part in parts}
            if patience.is_over():
                raise StageLostError(f"{behind[0]}, again and again; is the memory too small?")
            for each in behind:
                held[each.sequence] = min(each.num_held, held.get(each.sequence, each.num_held))

    def run_next(self, given: NextToken) -> FloatRows | None:
        """The last stage's answer to a call like the one before; None: it must be ``run``.

        None as well where a stage is lost; ``run`` then brings it back.
        """
        if self._tasks or self.is_in_turn:
            return None
        rows: FloatRows | None = None

        def rehearse() -> None:
            self._stages[0].rehearse(given.followed())

        for number, stage in enumerate(self._stages):
            try:
                rows = stage.run_next(given if rows is None else given.with_rows(rows), rehearse)
            except Exception as error:
                self._lost = Lost(number, error)
                return None
            if rows is None:
                return None
        return rows

    def do(self, number: int, task: StageTask) -> object:
        """What a stage gives for a task. A lost one is brought back first, else StageLostError."""
        self._carry_out()
        patience = Patience(self._patience_s)
        while True:
            try:
                return self._stages[number].do(task)
            except Exception as error:
                self._revive(Lost(number, error), patience, None)
                if patience.is_over():
                    raise self._end_of_patience(Lost(number, error)) from error

    def do_always(self, task: StageTask) -> None:
        """Have all stages do a task, and any that is brought back later; the last of its kind."""
        self._standing[type(task)] = task
        for number in range(len(self._stages)):
            self.do(number, task)

    def close(self) -> None:
        """End all stages."""
        self._passage.close()
        for stage in self._stages:
            stage.close()

    def _revive(self, lost: Lost, patience: Patience, cancelled: CancelToken | None) -> None:
        """Bring a stage back, however often that must be tried, unless nobody waits any more."""
        stage, pauses = self._stages[lost.number], growing_pauses()
        logger.warning("stage %s was lost (%s); it is started again", stage.name, lost.cause)
        while cancelled is None or not cancelled.cancelled:
            try:
                stage.revive()
                for task in self._standing.values():
                    stage.do(task)
            except ModelFileError as error:
                raise StageLostError(
                    f"stage {stage.name} was lost and cannot come back: {error}"
                ) from error
            except Exception as error:
                pause_s = next(pauses)
                if patience.is_over(pause_s):
                    raise self._end_of_patience(Lost(lost.number, error)) from error
                time.sleep(pause_s)
            else:
                return

    def _end_of_patience(self, lost: Lost) -> StageLostError:
        return StageLostError(
            f"stage {self._stages[lost.number].name} was lost and did not come back within "
            f"{self._patience_s:g} s: {lost.cause}"
        )

    def _carry_out(self) -> None:
        """Have stages do what they were to do before this step, which itself finds a lost one."""
        while self._tasks:
            task = self._tasks.popleft()
            for stage in self._stages:
                try:
                    stage.do(task) if isinstance(task, Fork) else stage.forget(task)
                except Exception as error:
                    logger.debug("stage %s does not hear of %s: %s", stage.name, task, error)


def _answers_to(part: Part, answers: Sequence[tuple[StageCall, Answer]]) -> list[Answer]:
    """The answers to a part's own calls and errors, without those for what a stage had lost."""
    return [
        answer
        for call, answer in answers
        if call.sequence == part.sequence
        and (call.position >= part.position or isinstance(answer, EdgellamaError))
    ]


def _check_order(stages: Sequence[StageHandle]) -> None:
    """InvalidOptionError for stages that do not follow each other."""
    if not stages:
        raise InvalidOptionError("no stages; needed: all layers of a model, in order")
    end = 0
    for stage in stages:
        if stage.layers.start != end:
            raise InvalidOptionError(
                f"stage {stage.name} begins with layer {stage.layers.start}; needed here: {end}"
            )
        end = stage.layers.stop
