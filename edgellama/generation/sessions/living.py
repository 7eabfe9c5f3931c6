"""A list that keeps none of its members alive, such as a model's sessions, which it closes.

It is thread-safe, and Ctrl-C at any line leaves it consistent.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Living(Generic[Thing]):
    """Things that were added and are there still; thread-safe.

    Nothing is called when one is gone, as ``weakref.WeakSet`` does it: Python forgets Ctrl-C that
    comes there.
    """

    def __init__(self) -> None:
        self._references: list[weakref.ref[Thing]] = []

    def add(self, thing: Thing) -> None:
        """Add one more thing."""
        for reference in self._references.copy():
            if reference() is None:
                with contextlib.suppress(ValueError):
                    self._references.remove(reference)
        self._references.append(weakref.ref(thing))

    def __iter__(self) -> Iterator[Thing]:
        for reference in self._references.copy():
            if (thing := reference()) is not None:
                yield thing
