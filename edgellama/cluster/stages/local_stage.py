"""A stage in the driver's own process, or in a test.

It computes like any other stage, and can be lost and made again. ``ray_stages`` reaches stages
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage import Stage
from edgellama.cluster.stages.stage_call import Answer, StageCall
from edgellama.cluster.stages.stage_hooks import AnswerHook
from edgellama.cluster.stages.stage_task import StageTask
from edgellama.quant.array_types import FloatRows


class LocalStage:
    """The handle of a stage that ``make_stage`` makes, anew each time that it was lost."""

    def __init__(self, make_stage: Callable[[], Stage]) -> None:
        self._make_stage = make_stage
        self._stage = make_stage()
        self._driver: AnswerHook | None = None
        self.layers = self._stage.layers

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"layers {self.layers.start} to {self.layers.stop - 1} in this process"

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """See ``Stage.run``."""
        return self._stage.run(calls, self._driver)

    def run_next(self, given: NextToken, meanwhile: Callable[[], None]) -> FloatRows | None:
        """See ``Stage.run_next``; nobody waits."""
        return self._stage.run_next(given)

    def rehearse(self, given: NextToken) -> None:
        """See ``Stage.rehearse``."""
        self._stage.rehearse(given)

    def do(self, task: StageTask) -> object:
        """See ``Stage.do``."""
        return self._stage.do(task)

    def call_hooks(self, driver: AnswerHook) -> None:
        """See ``StageHandle.call_hooks``."""
        self._driver = driver

    def forget(self, sequence: int) -> None:
        """See ``Stage.forget``."""
        self._stage.forget(sequence)

    def revive(self) -> None:
        """Another stage, which holds nothing."""
        self._stage.close()
        self._stage = self._make_stage()

    def close(self) -> None:
        """End the stage."""
        self._stage.close()
