"""The process's standard streams: all three exist, and none can fail when the process ends.

The commands and ``application`` know what is written to them.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO, cast


def open_missing() -> None:
    """Open nothing in the place of each stream that is closed, as services and cron may do it.

    Else a file that is opened later would take its number, and get what is written to it.
    """
    if sys.stdin is None:
        sys.stdin = _nowhere("r")
    if sys.stdout is None:
        sys.stdout = _nowhere("w")
    if sys.stderr is None:
        sys.stderr = _nowhere("w")


def show_any_text() -> None:
    """A character that a stream cannot show becomes another, and ends no command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def flush_all() -> bool:
    """Write what waits; False if a stream did not take it; from then on it takes all silently.

    The interpreter flushes once more at its end, and complains with words of its own.
    """
    is_written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            is_written = False
            abandon(stream)
    return is_written


def abandon(stream: TextIO) -> None:
    """Send what is still to come from ``stream`` nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _nowhere(mode: str) -> TextIO:
    return cast("TextIO", os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
