"""An instrument for the engine: how long each op of each step takes.

Ops are timed by the CPU's clock, which is read between them on the calling thread; every op then
waits for its own end, so that times do not run into each other. Knows programs, not models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.thread_team import ThreadTeam, Words
from edgellama.program import Op, Program


@dataclass(frozen=True)
class TimedJob:
    """One run of a program: its ops, and seconds of each (num_ops,)."""

    ops: Sequence[Op]
    seconds: npt.NDArray[np.float64]


class StepTimer:
    """Give it to an Engine as its ``timer``; it keeps every job until ``take_jobs``."""

    def __init__(self) -> None:
        self._jobs: list[tuple[Program, Words]] = []
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def separated(self, ops: Sequence[Op]) -> list[Op]:
        """The same ops, each waited for."""
        return [replace(op, barrier=True) for op in ops]

    def run(self, team: ThreadTeam, program: Program, flag: Words | None) -> bool:
        """Run a program and keep its times; False if it was cancelled, and nothing is kept."""
        stamps = np.zeros(len(program.ops) + 1, np.int64)
        started = perf_counter()
        done = team.run(program.memory, flag, owner=program, stamps=stamps)
        if done:
            self._last = (perf_counter(), int(stamps[-1]))
            self._first = self._first or (started, int(stamps[0]))
            self._jobs.append((program, stamps))
        return done

    def take_jobs(self) -> list[TimedJob]:
        """The jobs since the last call, in order, forgotten here."""
        jobs, self._jobs = self._jobs, []
        seconds = self._seconds_per_tick() if jobs else 0.0
        return [TimedJob(program.ops, np.diff(stamps) * seconds) for program, stamps in jobs]

    def _seconds_per_tick(self) -> float:
        """The clock's unit, from the first job's start to the last one's end."""
        assert self._first is not None
        ticks = self._last[1] - self._first[1]
        return (self._last[0] - self._first[0]) / ticks if ticks else 0.0
