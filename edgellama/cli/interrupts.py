"""What Ctrl-C does to a command's process: it ends a start at once, and later is never lost.

Each command knows what it undoes when it is interrupted.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
A_MOMENT_SECONDS = 0.01
"""Longer than a callback takes to return."""


def end_at_once() -> None:
    """Ctrl-C ends the process from now on, silently, since there is nothing yet to take back.

    An exception would come out of whatever import runs, and be lost in a callback of it. Where
    interrupts are ignored, as in the background of a shell, they stay so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def unwind() -> None:
    """Ctrl-C is a KeyboardInterrupt again, also one that Python could not raise where it came."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = _raise_interrupts_again


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(EXIT_INTERRUPTED)


def _raise_interrupts_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Show what a finalizer or a weak reference's callback raised, but for an interrupt.

    Python goes on after such a callback as if nothing had been. Another thread sends the interrupt
    again, so that it comes when this function has returned.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _thread.start_new_thread(_interrupt, (_thread.get_ident(),))
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt(thread: int) -> None:
    time.sleep(A_MOMENT_SECONDS)
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(thread, signal.SIGINT)  # This ends a wait of the thread, too.
    else:
        _thread.interrupt_main()
