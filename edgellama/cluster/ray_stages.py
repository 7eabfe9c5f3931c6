"""Stages as Ray actors, from their driver's side: a stage that is lost is started again.

Calls go over a connection of their own if the driver can reach it, or else as calls of the actor.
``stage_actor`` runs on the node, ``ray_cluster`` has Ray and its cluster.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from edgellama.cluster.connections.direct_line import PULSE_S, SILENCE_S, Line
from edgellama.cluster.connections.progress_watch import STUCK_S, ProgressWatch
from edgellama.cluster.ray_cluster import REACH_S, import_ray
from edgellama.cluster.stage_actor import StageActor, StageOrder
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage_call import Answer, StageCall, StageSilentError
from edgellama.cluster.stages.stage_hooks import AnswerHook
from edgellama.cluster.stages.stage_task import StageTask
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import EdgellamaError, InvalidOptionError

logger = logging.getLogger(__name__)
START_S = 60.0
"""How long one try to start a stage takes; a machine that is still starting is tried again."""
REVIVE_S = 5.0
"""The same for a stage that is brought back, so that a waiting caller may give up meanwhile."""
PULSE = "pulse"
"""The actor's threads that answer while another one computes."""
PLACE_SHARE = 0.001
"""Of a node's resource that is called as a machine; many stages find a place there."""


class RayStage:
    """The handle of a stage on a node of the Ray cluster that this process is connected to."""

    def __init__(
        self,
        order: StageOrder,
        *,
        has_line: bool = True,
        silence_s: float = SILENCE_S,
        pulse_s: float = PULSE_S,
        stuck_s: float = STUCK_S,
    ) -> None:
        """Ask for the actor, without waiting for it. EdgellamaError without Ray.

        ``has_line``: whether calls may go over a connection of their own. A stage that is silent
        for ``silence_s``, and says then for ``pulse_s`` not that it is there, is replaced; so is
        one whose work has not come any further for ``stuck_s``.
        """
        self._ray = import_ray()
        self._order = order
        self.layers = order.layers
        self._actor = self._new_actor()
        self._line: Line | None = None
        self._driver: AnswerHook | None = None
        self._has_line = has_line
        self._limits = {"silence_s": silence_s, "pulse_s": pulse_s, "stuck_s": stuck_s}
        self._is_silent = False

    @property
    def name(self) -> str:
        """What errors call it."""
        place = f"on {self._order.place}" if self._order.place else "on a node of Ray"
        return f"layers {self.layers.start} to {self.layers.stop - 1} {place}"

    def start(self, timeout_s: float = START_S) -> None:
        """Wait until the stage has opened its file.

        Raises what is wrong with that, or EdgellamaError if no node takes the stage in time.
        """
        try:
            wrong = self._ray.get(self._actor.open.remote(), timeout=timeout_s)
        except self._ray.exceptions.GetTimeoutError:
            raise EdgellamaError(
                f"stage {self.name} did not start within {timeout_s:g} s; is there a node "
                f"with that resource? (ray status)"
            ) from None
        if wrong is not None:
            raise wrong

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """See ``Stage.run``; any exception means that the stage is lost."""
        answers: list[Answer] = self._ask(calls)
        return answers

    def run_next(self, given: NextToken, meanwhile: Callable[[], None]) -> FloatRows | None:
        """See ``Stage.run_next``; by Ray there is nothing to be gained."""
        if self._line is None or self._line.is_closed:
            return None
        found: FloatRows | None = self._ask(given, meanwhile)
        return found

    def rehearse(self, given: NextToken) -> None:
        """Nothing: the stage does so itself."""

    def do(self, task: StageTask) -> object:
        """See ``Stage.do``; any exception means that the stage is lost."""
        return self._ask(task)

    def call_hooks(self, driver: AnswerHook) -> None:
        """See ``StageHandle.call_hooks``; a call by Ray could not ask back."""
        if not self._has_line:
            raise InvalidOptionError(
                f"a hook is given, and stage {self.name} has no connection of its own for it"
            )
        self._driver = driver
        if self._line is not None:
            self._line.driver = driver

    def forget(self, sequence: int) -> None:
        """Tell the stage, and wait for nothing."""
        self._actor.forget.remote(sequence)

    def revive(self) -> None:
        """Wait for the actor that Ray has started again, or make another one."""
        self._hang_up()
        if self._is_silent:
            # A silent actor may wake up at any time; killed, it does nothing then.
            self._ray.kill(self._actor)
            self._actor, self._is_silent = self._new_actor(), False
        try:
            self.start(REVIVE_S)
        except self._ray.exceptions.ActorUnavailableError:
            raise
        except self._ray.exceptions.RayActorError:
            self._actor = self._new_actor()
            self.start(REVIVE_S)

    def close(self) -> None:
        """End the actor, if its cluster is still there."""
        self._hang_up()
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor)

    def _ask(self, message: object, meanwhile: Callable[[], None] | None = None) -> Any:
        if self._is_silent:
            raise StageSilentError("it says nothing any more")
        try:
            if self._has_line and (self._line is None or self._line.is_closed):
                self._connect()
            if self._line is not None:
                return self._line.ask(message, meanwhile)
            return self._answer(self._actor.answer.remote(message))
        except StageSilentError:
            self._is_silent = True
            raise

    def _connect(self) -> None:
        """Have a line to the actor; without one, its calls are Ray's."""
        self._line = None
        address = self._answer(self._actor.line.remote())
        try:
            self._line = None if address is None else Line(address, REACH_S, **self._limits)
        except OSError as error:
            logger.warning("no line to stage %s (%s); its calls go by Ray", self.name, error)
        self._has_line = self._line is not None
        if self._line is not None:
            self._line.driver = self._driver

    def _answer(self, reference: Any) -> Any:
        """What a call of the actor gives; StageSilentError for one that is not there any more."""
        watch = ProgressWatch(self._limits["stuck_s"])
        while not self._ray.wait([reference], timeout=self._limits["silence_s"])[0]:
            pulse = self._actor.pulse.options(concurrency_group=PULSE).remote()
            if not self._ray.wait([pulse], timeout=self._limits["pulse_s"])[0]:
                total_s = self._limits["silence_s"] + self._limits["pulse_s"]
                raise StageSilentError(f"it has not said for {total_s:g} s that it is still there")
            watch.note(self._ray.get(pulse))
        return self._ray.get(reference)

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()

    def _new_actor(self) -> Any:
        place = self._order.place
        resources = {} if place is None else {"resources": {place: PLACE_SHARE}}
        return (
            self._ray.remote(concurrency_groups={PULSE: 1})(StageActor)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=0, **resources)
            .remote(self._order)
        )


def start_stages(
    orders: Sequence[StageOrder], timeout_s: float = START_S, **options: Any
) -> list[RayStage]:
    """All stages, started at the same time; if one fails, none is left.

    ``options``: those of ``RayStage``.
    """
    stages: list[RayStage] = []
    try:
        stages += [RayStage(order, **options) for order in orders]
        for stage in stages:
            stage.start(timeout_s)
    except BaseException:
        for stage in stages:
            stage.close()
        raise
    return stages
