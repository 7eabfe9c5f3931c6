"""How long a lost stage is waited for, and the pauses between tries to bring it back.

``pipeline`` brings stages back, and says what was lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0


class Patience:
    """``seconds`` from the first question on, which is asked when something was lost."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None

    def is_over(self, pause_s: float = 0.0) -> bool:
        """Whether the time is over, or will be after a pause."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        return now + pause_s >= self._until


def growing_pauses() -> Iterator[float]:
    """Seconds between two tries, each time twice as many, up to LONGEST_PAUSE_S."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
