"""Hooks over stages: functions of the driver's process, called when a stage has the rows.

The driver tells a stage at which places of its steps somebody wants rows. At such a place, the
stage sends the rows to the driver and continues with those that come back. The connection decides
how they are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgellama.engine.program.hooks import Hook, HookPlace, RowFunction, RowHook, StepRows
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import EdgellamaError, InvalidOptionError


class HookFailedError(Exception):
    """A hook's function has raised ``cause``, which is no stage's fault."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True)
class HookAt:
    """Where the driver's hook ``number`` stands; ``layers`` None: all."""

    number: int
    place: HookPlace
    layers: tuple[int, ...] | None


@dataclass(frozen=True)
class HookCall:
    """Rows (num_rows, width) of a step that a hook is to see; other ones come back."""

    number: int
    rows: FloatRows
    step: StepRows


AnswerHook = Callable[[HookCall], FloatRows]
"""Gives the rows as a hook's function has left them."""


class DriverHooks:
    """The functions, in the process of the driver."""

    def __init__(self, hooks: Sequence[Hook] = ()) -> None:
        """InvalidOptionError for a hook that is more than a function."""
        functions: list[RowHook] = []
        for hook in hooks:
            if not isinstance(hook, RowHook):
                raise InvalidOptionError(
                    f"a hook of type {type(hook).__name__}; a model over several stages takes "
                    "functions, as add_hook does"
                )
            functions.append(hook)
        self.hooks: tuple[RowHook, ...] = tuple(functions)

    @property
    def places(self) -> tuple[HookAt, ...]:
        """The places of hooks, as stages learn of them."""
        return tuple(
            HookAt(number, hook.place, None if hook.layers is None else tuple(hook.layers))
            for number, hook in enumerate(self.hooks)
        )

    def answer(self, call: HookCall) -> FloatRows:
        """See ``AnswerHook``. HookFailedError for what a function raises."""
        try:
            self.hooks[call.number].function(call.rows, call.step)
        except Exception as error:
            raise HookFailedError(error) from error
        return call.rows


class StageHooks:
    """What stands for them on a stage; ``driver`` answers the running call."""

    def __init__(self) -> None:
        self.driver: AnswerHook | None = None

    def made(self, places: Sequence[HookAt]) -> tuple[RowHook, ...]:
        """Hooks for the stage's engine."""
        return tuple(RowHook(self._function(at.number), at.place, at.layers) for at in places)

    def _function(self, number: int) -> RowFunction:
        def call(rows: FloatRows, step: StepRows) -> None:
            if self.driver is None:
                raise EdgellamaError("a stage has hooks, and nobody whom it may ask")
            found = self.driver(HookCall(number, rows, step))
            if found is not rows:
                np.copyto(rows, found)

        return call
