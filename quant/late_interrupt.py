"""Ctrl-C that comes within a finalizer, where Python would tell of it and forget it.

A finalizer catches it, does all that it has to do, and lets it come again for whoever runs then.
"""

from __future__ import annotations

import signal
from _thread import interrupt_main


class _Signal(int):
    """A signal's number; ``comes`` calls no Python code, so that nothing handles it at once."""

    comes = property(interrupt_main)


LATE_INTERRUPT = _Signal(signal.SIGINT)
"""``comes`` is the last thing that a finalizer asks for, in its own frame."""
