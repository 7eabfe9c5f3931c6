"""Keeps a Ctrl-C that comes inside a finalizer, where Python would only print it and forget it.

The finalizer catches it, finishes its work, and has it raised again in the code that runs then.
"""

from __future__ import annotations

import signal
from _thread import interrupt_main


class _Signal(int):
    """A signal's number; ``comes`` calls no Python code, so that nothing handles it at once."""

    comes = property(interrupt_main)


LATE_INTERRUPT = _Signal(signal.SIGINT)
"""``comes`` is the last thing that a finalizer asks for, in its own frame."""
