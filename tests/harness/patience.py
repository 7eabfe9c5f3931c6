"""Waits for what another thread, process or client must bring about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 60.0
"""A busy machine may leave a thread without a core for seconds."""
PAUSE_S = 0.005
Found = TypeVar("Found")


def until(found: Callable[[], Found], patience_s: float = PATIENCE_S) -> Found:
    """What ``found`` gives once it is true; AssertionError if it does not become so.

    Looks are counted, not seconds, in which this process may have been stopped.
    """
    for _ in range(int(patience_s / PAUSE_S)):
        if result := found():
            return result
        time.sleep(PAUSE_S)
    raise AssertionError(f"it did not come about within {patience_s} s")
