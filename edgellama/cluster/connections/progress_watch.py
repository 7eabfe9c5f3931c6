"""Whether a stage makes progress, by what it reports of itself.

A stage whose process lives can still hang, for example in a driver of its machine. The caller
decides what to do about it.
"""

from __future__ import annotations

import time

from edgellama.cluster.stages.stage_call import StageSilentError

STUCK_S = 120.0
"""How long a stage may be busy without coming any further; more than any op or kernel takes."""


class ProgressWatch:
    """Watches one stage, a call at a time. A stage that reports no progress has no limit."""

    def __init__(self, stuck_s: float = STUCK_S) -> None:
        self._stuck_s = stuck_s
        self.begin()

    def begin(self) -> None:
        """A call begins."""
        self._last: object = None
        self._since = time.monotonic()

    def note(self, progress: object) -> None:
        """StageSilentError if the progress of the running call was the same for too long."""
        now = time.monotonic()
        if progress is None or progress != self._last:
            self._last, self._since = progress, now
        elif now - self._since >= self._stuck_s:
            raise StageSilentError(
                f"it is there, but its work has not come any further for {self._stuck_s:g} s"
            )
