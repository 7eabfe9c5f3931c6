"""Runs the ops of a step in parts, and calls hooks between them.

``hooks`` defines hooks, and ``llama_program`` asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from edgellama.engine.program.hooks import Call, Hook
from edgellama.engine.program.program import Op
from edgellama.engine.steps.segments import Segment
from edgellama.engine.steps.step_rows import rows_of
from edgellama.quant.records import dataclass

MAX_WRITTEN = 64
"""Programs that are kept where hooks cut them into parts."""
RunOps: TypeAlias = Callable[[tuple[object, ...], Callable[[], list[Op]], "dict[str, int]"], bool]
"""Runs ops, which are asked for once for each key, with values bound; False: cancelled."""


@dataclass(frozen=True)
class StepPart:
    """Ops that run together: ``key`` says all that they depend on; ``values`` are bound in them."""

    key: tuple[object, ...]
    write: Callable[[], list[Op | Call]]
    values: dict[str, int]

    def then(self, later: StepPart) -> StepPart:
        """This part and a later one, as one."""
        return StepPart(
            (*self.key, *later.key),
            lambda: self.write() + later.write(),
            self.values | later.values,
        )


class HookedParts:
    """Runs what one runner of steps writes; keeps how ops were cut, until hooks change."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[object, ...], list[list[Op] | Call]] = {}

    def clear(self) -> None:
        """Forget what was written for other hooks."""
        self._pieces.clear()

    def run(
        self,
        hooks: tuple[Hook, ...],
        part: StepPart,
        segments: Sequence[Segment],
        logit_rows: Sequence[int],
        run_ops: RunOps,
    ) -> bool:
        """Run ops, and call what hooks want called between them; False: cancelled."""
        key, values = part.key, part.values
        if not hooks:
            return run_ops(key, lambda: [op for op in part.write() if isinstance(op, Op)], values)
        pieces = self._pieces.get(key)
        if pieces is None:
            if len(self._pieces) >= MAX_WRITTEN:
                self._pieces.clear()
            pieces = self._pieces[key] = _split_at_calls(part.write())
        all_rows = rows_of(segments)
        for number, piece in enumerate(pieces):
            if isinstance(piece, Call):
                chosen = logit_rows if piece.is_of_logits else range(len(all_rows.tokens))
                count, width = len(chosen), piece.rows.width
                piece.function(piece.rows.array[:count, :width], all_rows.of(chosen))
            elif not run_ops((hooks, key, number), partial(list, piece), values):
                return False
        return True


def _split_at_calls(steps: Sequence[Op | Call]) -> list[list[Op] | Call]:
    """Runs of ops, each of which ends with a barrier, and the calls between them."""
    parts: list[list[Op] | Call] = []
    ops: list[Op] = []
    for step in (*steps, None):
        if isinstance(step, Op):
            ops.append(step)
            continue
        if ops:
            parts.append([*ops[:-1], replace(ops[-1], barrier=True)])
        ops = []
        if step is not None:
            parts.append(step)
    return parts
