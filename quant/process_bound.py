"""What exists in one process only: it has threads, a mapped file, a text.

It can be neither copied nor pickled, and has lost its threads in a process that is forked. Each
class knows what it holds.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Final, NoReturn, SupportsIndex


class ProcessBound:
    """Base of what is neither copied nor pickled; a copy would give back what another uses."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse in words, where Python would name a part that nobody knows."""
        raise TypeError(
            f"{self!r} can be neither copied nor pickled; another process opens the model itself, "
            "and the system holds the weights once for all of them"
        )


class ForkCalls:
    """Bound methods that each forked process calls first, in the order in which they came.

    It keeps no method's object alive, and forgets those whose objects are gone.
    """

    def __init__(self) -> None:
        self._methods: list[weakref.WeakMethod[Callable[[], None]]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._call_all)

    def __len__(self) -> int:
        return len(self._methods)

    def add(self, method: Callable[[], None]) -> None:
        """Have a bound method called first in each process that is forked from this one."""
        # Methods of objects that are gone are removed here: a callback of weakref could come in the
        # middle of anything.
        for reference in self._methods.copy():
            if reference() is None:
                with contextlib.suppress(ValueError):  # by another thread
                    self._methods.remove(reference)
        self._methods.append(weakref.WeakMethod(method))

    def _call_all(self) -> None:
        for reference in self._methods.copy():
            if (found := reference()) is not None:
                found()


# The one object of its kind in a process: Python forgets nothing that was registered for forks.
call_after_fork: Final = ForkCalls().add
