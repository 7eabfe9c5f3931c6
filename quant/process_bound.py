"""What exists in one process only: it has threads, a mapped file, a text.

It can be neither copied nor pickled, and has lost its threads in a process that is forked. Each
class knows what it holds.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import NoReturn, SupportsIndex


class ProcessBound:
    """Base of what is neither copied nor pickled; a copy would give back what another uses."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse in words, where Python would name a part that nobody knows."""
        raise TypeError(
            f"{self!r} can be neither copied nor pickled; another process opens the model itself, "
            "and the system holds the weights once for all of them"
        )


def call_after_fork(method: Callable[[], None]) -> None:
    """Have a bound method called first in each process that is forked from this one.

    This does not keep the method's object alive, and ends with it.
    """
    # Those of objects that are gone leave with the next one; weakref's own callbacks may come
    # in the middle of anything.
    for reference in _METHODS.copy():
        if reference() is None:
            with contextlib.suppress(ValueError):  # by another thread
                _METHODS.remove(reference)
    _METHODS.append(weakref.WeakMethod(method))


def _call_all() -> None:
    for reference in _METHODS.copy():
        if (found := reference()) is not None:
            found()


_METHODS: list[weakref.WeakMethod[Callable[[], None]]] = []
# Python never forgets what is registered there, so it is once for a process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_call_all)
