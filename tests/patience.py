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
    """What ``found`` gives once it is true; AssertionError if it does not become so."""
    deadline = time.monotonic() + patience_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"it did not come about within {patience_s} s"
        time.sleep(PAUSE_S)
    return result
