"""Finds a core on which a thread may look for a message without taking time from other threads.

Some systems keep threads together on few cores as long as these have time for all. A thread that
looks for a message there would stop the very thread that should send it. So it moves to another
core meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

OTHERS_S = 1e-4
"""A thread that gives its core up and gets it back later than that has let another one run."""
REST_WAITS = 64
"""For so long nobody looks for messages where no core is free."""
PROCESSOR_FIELD = 36
"""Of what Linux tells of a thread, behind its name: the core that it runs on."""


class FreeCore:
    """Of one thread, which is somewhere else only between ``enter`` and ``leave``."""

    def __init__(self) -> None:
        self._avoided: frozenset[int] = frozenset()
        self._allowed: set[int] = set()
        self._rest = 0

    @property
    def may_be_tried(self) -> bool:
        """Whether there was a free core lately, or nobody has looked for one for long."""
        self._rest = max(0, self._rest - 1)
        return not self._rest

    def enter(self) -> None:
        """Keep off a core that somebody else was found on, if there is one."""
        if self._avoided:
            self._move(self._avoided)

    def leave(self) -> None:
        """Let the thread run again where it might before."""
        if self._allowed and sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._allowed)
        self._allowed = set()

    def is_free(self) -> bool:
        """Give the core up for whoever wants it; whether nobody did."""
        started = time.perf_counter()
        _give_up()
        return time.perf_counter() - started < OTHERS_S

    def find(self) -> bool:
        """Go to another core than this one, which is not free; whether there was one to try."""
        here = None if self._avoided else _core()
        if here is not None and self._move(frozenset([here])):
            self._avoided = frozenset([here])
            return True
        self._avoided, self._rest = frozenset(), REST_WAITS
        return False

    def _move(self, avoided: frozenset[int]) -> bool:
        if sys.platform != "linux":
            return False
        try:
            allowed = os.sched_getaffinity(0)
            if not allowed - avoided:
                return False
            self._allowed = allowed
            os.sched_setaffinity(0, allowed - avoided)
        except OSError:
            return False
        return True


def _give_up() -> None:
    if sys.platform == "win32":
        time.sleep(0)
    else:
        os.sched_yield()


def _core() -> int | None:
    """The core that this thread runs on; None if the system does not tell."""
    try:
        told = Path("/proc/thread-self/stat").read_text()
        return int(told.rpartition(")")[2].split()[PROCESSOR_FIELD])
    except (OSError, ValueError, IndexError):
        return None
