"""Callers of one engine take turns; who waits can be cancelled, and Ctrl-C leaves none taken.

It knows no engine: work is a function to call while no other caller's runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from edgellama.engine.cancellation import CancelToken
from edgellama.quant.errors import GenerationCancelled

Result = TypeVar("Result")
POLL_S = 0.02
CANCELLED = "the step was cancelled"


class Turns:
    """One piece of work at a time. A signal's handler may take a turn within its thread's own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def take(self, work: Callable[[], Result], cancelled: CancelToken | None = None) -> Result:
        """What ``work`` returns. Raises GenerationCancelled before it, never after.

        No context manager: Ctrl-C could come between the taking of its lock and its body.
        """
        try:
            while not self._lock.acquire(timeout=POLL_S):
                _check(cancelled)
            _check(cancelled)
            return work()
        finally:
            # RuntimeError: it was not taken yet. Nothing is called before the release, since a
            # signal's handler could run there.
            try:  # noqa: SIM105
                self._lock.release()
            except RuntimeError:
                pass


def _check(token: CancelToken | None) -> None:
    if token is not None and token.cancelled:
        raise GenerationCancelled(CANCELLED)
