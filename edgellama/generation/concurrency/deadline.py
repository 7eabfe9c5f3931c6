"""A time limit of a text: cancels it from a thread of its own, since the text's thread is busy.

The cancel token keeps the reason, "timeout".
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.engine.scheduling.cancellation import CancelToken


class Deadline:
    """Cancels ``token`` after so many ``seconds``, None for never, unless it is called off."""

    def __init__(self, token: CancelToken, seconds: float | None) -> None:
        self._timer: threading.Timer | None = None
        if seconds is not None:
            wait = min(seconds, threading.TIMEOUT_MAX)
            self._timer = threading.Timer(wait, token.cancel, ("timeout",))
            self._timer.name, self._timer.daemon = "edgellama-deadline", True
            self._timer.start()

    def call_off(self) -> None:
        """Do not cancel any more; more calls do nothing."""
        if self._timer is not None:
            self._timer.cancel()
