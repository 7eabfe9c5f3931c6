"""An instrument for the engine: measures how long each op of each step takes.

The calling thread reads the system's clock between ops. Every op waits for its own end, so that
times do not overlap. It knows programs, not models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgellama.engine.program.program import Op, Program
from edgellama.kernels_cpu.threads.thread_team import ThreadTeam, Words
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class TimedJob:
    """One run of a program: its ops, and seconds of each (num_ops,)."""

    ops: Sequence[Op]
    seconds: npt.NDArray[np.float64]


class StepTimer:
    """Give it to an Engine as its ``timer``; it keeps every job until ``take_jobs``."""

    def __init__(self) -> None:
        self._jobs: list[TimedJob] = []

    def separated(self, ops: Sequence[Op]) -> list[Op]:
        """The same ops, each waited for."""
        return [replace(op, barrier=True) for op in ops]

    def run(self, team: ThreadTeam, program: Program, flag: Words | None) -> bool:
        """Run a program and keep its times; False if it was cancelled, and nothing is kept."""
        stamps = np.zeros((len(program.ops) + 1, 2), np.int64)
        done = team.run(program.memory, flag, owner=program, stamps=stamps)
        if done:
            seconds, nanoseconds = np.diff(stamps, axis=0).T
            self._jobs.append(TimedJob(program.ops, seconds + 1e-9 * nanoseconds))
        return done

    def take_jobs(self) -> list[TimedJob]:
        """The jobs since the last call, in order, forgotten here."""
        jobs, self._jobs = self._jobs, []
        return jobs
