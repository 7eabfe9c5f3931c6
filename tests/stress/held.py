"""What a process holds: memory, threads and open files, from /proc."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 10.0
"""How long threads that have been told to end may take on a busy machine."""


def resident_bytes() -> int:
    """Memory that this process has in RAM, without the pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("no RssAnon in /proc/self/status")


def num_threads() -> int:
    """Threads of this process, Python's and others."""
    return len(os.listdir("/proc/self/task"))


def num_files() -> int:
    """Open file descriptors and mapped model files."""
    mapped = Path("/proc/self/maps").read_text().count(".gguf")
    return len(os.listdir("/proc/self/fd")) + mapped


def check_back(measure: Callable[[], int], before: int) -> None:
    """AssertionError unless ``measure`` comes back to what it was, within ten seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while measure() > before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert measure() <= before, f"{measure.__name__} was {before}, is {measure()}"
