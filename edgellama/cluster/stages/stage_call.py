"""The calls and answers of a driver and a stage, as plain values that any transport can carry.

``stage_task`` has the calls that compute nothing, ``connections.wire`` the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from edgellama.cluster.stages.adapter_uses import AdapterUse
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage_hooks import AnswerHook
from edgellama.cluster.stages.stage_task import StageTask, Tokens
from edgellama.engine.steps.segments import Wanted
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import EdgellamaError
from edgellama.sampling.choice_order import ChoiceOrder
from edgellama.sampling.share_order import ShareOrder

Order: TypeAlias = ChoiceOrder | ShareOrder


class StageSilentError(ConnectionError):
    """A stage's process is there, or its machine was, and says nothing any more."""


@dataclass(frozen=True)
class StageCall:
    """Tokens (n,) of ``sequence`` from ``position`` on.

    ``rows`` (n, width): what the layers before have left; None if the first layer runs.
    ``wanted``: of which tokens there are to be logits, where the last layer runs.
    ``prompt_length``: how many tokens the sequence began with. ``beside``: the sequences of its
    step, which are not forgotten for it. ``order``: how tokens are chosen by the logits that are
    wanted, or what is told of them, and sent in their place. ``adapters``: what its tokens are
    computed with.
    """

    sequence: int
    position: int
    tokens: Tokens
    wanted: Wanted = "last"
    rows: FloatRows | None = None
    prompt_length: int = 0
    beside: frozenset[int] = frozenset()
    order: Order | None = None
    adapters: tuple[AdapterUse, ...] = ()

    def with_rows(self, rows: FloatRows) -> StageCall:
        """The same for the next stage; as ``replace``, in a fraction of its time."""
        return StageCall(
            self.sequence, self.position, self.tokens, self.wanted, rows, self.prompt_length,
            self.beside, self.order, self.adapters,
        )  # fmt: skip


@dataclass(frozen=True)
class Behind:
    """The answer to a call beyond what a stage holds: only the first ``num_held`` tokens."""

    sequence: int
    num_held: int

    def __str__(self) -> str:
        return f"sequence {self.sequence}: only {self.num_held} tokens are held here"


Answer: TypeAlias = "FloatRows | Behind | EdgellamaError"
"""Rows, or after the last layer logits or rows of one token; what is lacking; what is wrong."""


class StageHandle(Protocol):
    """How a driver reaches a stage, wherever that runs.

    Any exception of ``run`` but HookFailedError means that the stage is lost. ``revive`` then
    brings back an empty one, or raises as long as that cannot be done.
    """

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def layers(self) -> range:
        """The layers that run there."""
        ...

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """Compute calls of different sequences together; an answer for each."""
        ...

    def run_next(self, given: NextToken, meanwhile: Callable[[], None]) -> FloatRows | None:
        """See ``Stage.run_next``; any exception means that the stage is lost.

        ``meanwhile`` may be called once while the answer is waited for.
        """
        ...

    def rehearse(self, given: NextToken) -> None:
        """See ``Stage.rehearse``; nothing if the stage is elsewhere."""
        ...

    def do(self, task: StageTask) -> object:
        """Carry out what is no computation; what it gives. Any exception as for ``run``."""
        ...

    def call_hooks(self, driver: AnswerHook) -> None:
        """Let ``driver`` be asked where the stage comes to a hook; InvalidOptionError if not."""
        ...

    def forget(self, sequence: int) -> None:
        """Give back what a sequence takes; nothing happens for unknown ones."""
        ...

    def revive(self) -> None:
        """Bring back a lost stage."""
        ...

    def close(self) -> None:
        """End the stage."""
        ...
