"""The ops of a step run in parts, with what hooks want called between them.

What hooks are is known to ``hooks``, where they are asked to ``llama_program``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from edgellama.engine.hooks import Call, Hook
from edgellama.engine.program import Op
from edgellama.engine.segments import Segment
from edgellama.engine.step_rows import rows_of

MAX_WRITTEN = 64
"""Programs that are kept where hooks cut them into parts."""
RunOps: TypeAlias = Callable[[tuple[object, ...], Callable[[], list[Op]], "dict[str, int]"], bool]
"""Runs ops, which are asked for once for each key, with values bound; False: cancelled."""


class HookedParts:
    """Runs what one runner of steps writes; keeps how ops were cut, until hooks change."""

    def __init__(self) -> None:
        self._parts: dict[tuple[object, ...], list[list[Op] | Call]] = {}

    def clear(self) -> None:
        """Forget what was written for other hooks."""
        self._parts.clear()

    def run(
        self,
        hooks: tuple[Hook, ...],
        key: tuple[object, ...],
        write: Callable[[], list[Op | Call]],
        values: dict[str, int],
        segments: Sequence[Segment],
        logit_rows: Sequence[int],
        run_ops: RunOps,
    ) -> bool:
        """Run ops, and call what hooks want called between them; False: cancelled."""
        if not hooks:
            return run_ops(key, lambda: [op for op in write() if isinstance(op, Op)], values)
        parts = self._parts.get(key)
        if parts is None:
            if len(self._parts) >= MAX_WRITTEN:
                self._parts.clear()
            parts = self._parts[key] = _split_at_calls(write())
        all_rows = rows_of(segments)
        for number, part in enumerate(parts):
            if isinstance(part, Call):
                chosen = logit_rows if part.is_of_logits else range(len(all_rows.tokens))
                count, width = len(chosen), part.rows.width
                part.function(part.rows.array[:count, :width], all_rows.of(chosen))
            elif not run_ops((hooks, key, number), partial(list, part), values):
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
