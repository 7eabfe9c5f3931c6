"""Child processes that a test interrupts."""

from __future__ import annotations

import signal


def accept_interrupts() -> None:
    """For a child, before it runs: Ctrl-C works even where the tests' own parent ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
