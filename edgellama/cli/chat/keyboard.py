"""The keyboard while a reply streams: what is typed is not shown, but kept for the next prompt.

``input`` reads prompts, and keeps their history.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


@contextmanager
def silent_keyboard() -> Iterator[None]:
    """Turn the terminal's echo off, and on again however the block ends.

    The terminal keeps what is typed meanwhile until somebody reads it. Ctrl-C works as ever.
    Without a terminal, and on Windows, where only a reader makes an echo, nothing changes.
    """
    try:
        import termios
    except ImportError:
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def silence(number: int = 0, frame: FrameType | None = None) -> None:
        silent = termios.tcgetattr(descriptor)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)

    # After Ctrl-Z and fg the shell has turned the echo on again.
    previous = signal.signal(signal.SIGCONT, silence)
    try:
        silence()
        yield
    finally:
        signal.signal(signal.SIGCONT, previous)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
