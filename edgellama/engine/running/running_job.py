"""A running program, which another thread may stop in the middle of an op.

Threads look at a flag before every op. An op of a long prompt takes the threads of a large model
tens of milliseconds, so cancelling also takes away its remaining tasks. Tasks that were taken are
finished.
"""

from __future__ import annotations

import threading

from edgellama.engine.program.program import Program
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.kernels_cpu.threads.thread_team import ThreadTeam

PATIENCE_S = 0.1
"""Far longer than the lock is held; an interrupted holder must not hold up a cancellation."""
LAST_PATIENCE_S = 10.0
"""The same for the thread that ends a run: tasks that a crowded machine takes away later would be
the next job's, which could then never end."""


class RunningJob:
    """One run of a program, which a token may stop."""

    def __init__(self, team: ThreadTeam, program: Program, token: CancelToken) -> None:
        """The program is prepared for the team's next job."""
        self._team, self._program, self._token = team, program, token
        self._job = team.next_job
        self._lock = threading.RLock()
        self._is_running = True

    def run(self) -> bool:
        """Run to the end; False if the token has stopped it."""
        self._token.on_cancel = self.stop
        try:
            return self._team.run(self._program.memory, self._token.flag, owner=self._program)
        finally:
            self._token.on_cancel = None
            self._end()

    def stop(self) -> None:
        """Let no thread take another task; does nothing once the run is over."""
        is_held = self._lock.acquire(timeout=PATIENCE_S)
        try:
            if is_held and self._is_running:
                self._team.stop(self._job)
                self._program.withdraw()
        finally:
            if is_held:
                self._lock.release()

    def _end(self) -> None:
        """Wait for the thread that is stopping it: the program's next job must keep its tasks."""
        is_held = self._lock.acquire(timeout=LAST_PATIENCE_S)
        try:
            self._is_running = False
        finally:
            if is_held:
                self._lock.release()
