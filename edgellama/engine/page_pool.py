"""Pages of keys and values: counted, shared, and kept for who asks for the same tokens again.

A page belongs to as many sequences as hold it. A full one that no sequence holds any more stays,
under a byte limit, and is found again by its key, which stands for all tokens up to its end. The
pages that were used least recently go first, and their memory goes back to the system.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from edgellama.engine.memory import reserve
from edgellama.engine.page_layout import PageLayout

PageKey = bytes
"""Stands for the tokens of a page and of all before it, and for what they were computed with."""


class Page:
    """The memory of 128 positions, and how many sequences hold it."""

    __slots__ = ("address", "key", "memory", "num_owners")

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        self.memory = memory
        self.address = int(memory.ctypes.data)
        self.num_owners = 1
        self.key: PageKey | None = None

    @property
    def is_shared(self) -> bool:
        """Whether it must not be written: others hold it, or may find it."""
        return self.num_owners > 1 or self.key is not None


class PagePool:
    """All pages of one layout; thread-safe."""

    def __init__(self, layout: PageLayout, limit_bytes: int = 0) -> None:
        """``limit_bytes``: how much pages without an owner may take."""
        self.layout = layout
        self._limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._by_key: dict[PageKey, Page] = {}
        self._idle: OrderedDict[PageKey, Page] = OrderedDict()
        self._num_owned = 0

    @property
    def limit_bytes(self) -> int:
        """How much pages without an owner may take; less drops the oldest of them at once."""
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, num_bytes: int) -> None:
        with self._lock:
            self._limit_bytes = num_bytes
            self._drop_oldest()

    @property
    def idle_bytes(self) -> int:
        """What pages without an owner take."""
        return len(self._idle) * self.layout.page_bytes

    @property
    def num_owned(self) -> int:
        """Pages that sequences hold, each counted once."""
        return self._num_owned

    def new(self, *, is_for_all: bool = False) -> Page:
        """An empty page with one owner. InvalidOptionError where there is no memory.

        ``is_for_all``: all of its positions are written by the next step.
        """
        page = Page(reserve(self.layout.page_bytes, is_for_all=is_for_all))
        with self._lock:
            self._num_owned += 1
        return page

    def adopt(self, memory: npt.NDArray[np.uint8]) -> Page:
        """A page with one owner over memory that holds keys and values already."""
        with self._lock:
            self._num_owned += 1
        return Page(memory)

    def share(self, page: Page) -> Page:
        """The same page with one owner more."""
        with self._lock:
            page.num_owners += 1
        return page

    def release(self, page: Page) -> None:
        """One owner less; a page without any stays if it can be found, under the limit."""
        with self._lock:
            page.num_owners -= 1
            if page.num_owners:
                return
            self._num_owned -= 1
            if page.key is not None:
                self._idle[page.key] = page
                self._drop_oldest()

    def publish(self, page: Page, key: PageKey) -> None:
        """Let others find a full page; the first one of a key stays the one that is found."""
        with self._lock:
            if self._limit_bytes and page.key is None and key not in self._by_key:
                page.key = key
                self._by_key[key] = page

    def find(self, key: PageKey) -> Page | None:
        """The page of a key with one owner more, if there is one."""
        with self._lock:
            page = self._by_key.get(key)
            if page is None:
                return None
            if self._idle.pop(key, None) is not None:
                self._num_owned += 1
            page.num_owners += 1
            return page

    def clear(self) -> None:
        """Drop all pages without an owner."""
        with self._lock:
            while self._idle:
                self._drop(next(iter(self._idle)))

    def _drop_oldest(self) -> None:
        while self._idle and self.idle_bytes > self._limit_bytes:
            self._drop(next(iter(self._idle)))

    def _drop(self, key: PageKey) -> None:
        # A cache that the garbage collector closes may come between any two lines.
        if self._idle.pop(key, None) is not None:
            self._by_key.pop(key, None)
