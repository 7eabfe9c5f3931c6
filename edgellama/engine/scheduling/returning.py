"""Sequences that had a step lately, and probably want another one soon.

Python needs a moment to choose a token. A step that waits for it reads the weights once for all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgellama.engine.pages.text_cache import TextCache
from edgellama.engine.scheduling.work import Work

GATHER_SHARE, SHORTEST_GATHER_S, LONGEST_GATHER_S = 0.2, 5e-4, 3e-3
"""How long a step waits for those who had one lately: a share of its time, within limits. Python
needs some of it to let another thread choose its token."""
LATELY_STEPS = 3
"""A sequence whose last step is at most this many steps ago is expected for the next one."""
NAP_S = 2e-5


class Returning:
    """Which sequences had a step of a few tokens, and when. Any thread may ask."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self.last_step_s = 0.0

    def note(self, sequence: TextCache, now: float) -> None:
        """A sequence has had a step."""
        self._seen[id(sequence)] = now

    def forget_one(self, sequence: TextCache) -> None:
        """Expect a sequence no more."""
        self._seen.pop(id(sequence), None)

    def forget(self) -> None:
        """Expect nobody."""
        self._seen.clear()

    def is_only(self, sequence: TextCache) -> bool:
        """Whether no other sequence than this one had a step lately."""
        return not self._seen or (len(self._seen) == 1 and id(sequence) in self._seen)

    def gather(self, works: Sequence[Work], waiting: Sequence[Work]) -> None:
        """Wait a moment for sequences that will be back; ``waiting`` grows as they come."""
        if not self.absent(works, waiting):
            return
        patience = min(self.last_step_s * GATHER_SHARE, LONGEST_GATHER_S)
        until = time.perf_counter() + max(patience, SHORTEST_GATHER_S)
        while (absent := self.absent(works, waiting)) and time.perf_counter() < until:
            time.sleep(NAP_S)
        # Whoever did not come back in time is not waited for until it has had a step again.
        for sequence in absent:
            self._seen.pop(sequence, None)

    def absent(self, works: Sequence[Work], waiting: Sequence[Work]) -> set[int]:
        """Sequences that had a step of a few tokens lately, and do not wait for one now."""
        seen = self._seen
        if len(seen) <= 1 and len(works) == 1 and id(works[0].cache) in seen:
            return set()
        since = time.perf_counter() - max(LATELY_STEPS * self.last_step_s, LONGEST_GATHER_S)
        for sequence, when in seen.copy().items():
            if when < since:
                seen.pop(sequence, None)
        return set(seen) - {id(work.cache) for work in (*works, *waiting)}
