"""Carries items from threads to one reader in the event loop, at the least cost for both.

A thread wakes the loop once for all items that wait. The reader takes all of them at once, or lets
somebody else take items in the thread that brings them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Items from any thread, in their order, for one coroutine.

    Example:
        >>> import asyncio
        >>> from edgellama.server.answers.mailbox import Mailbox
        >>> async def main():
        ...     mailbox = Mailbox()
        ...     mailbox.post("first")
        ...     mailbox.post("second")
        ...     return await mailbox.take(), await mailbox.take(timeout_s=0.01)
        >>> asyncio.run(main())
        (['first', 'second'], [])
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._reader: asyncio.Future[None] | None = None
        self._taker: Callable[[Item], Item | None] | None = None

    def post(self, item: Item) -> None:
        """Add an item; from any thread."""
        with self._lock:
            if self._taker is not None:
                left = self._taker(item)
                if left is None:
                    return
                item, self._taker = left, None  # What comes later may not overtake it.
            self._items.append(item)
            is_told = len(self._items) > 1
        if is_told:
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            logger.debug("nobody reads any more")  # The loop is closed.

    def divert(self, taker: Callable[[Item], Item | None]) -> None:
        """Let ``taker`` have what is posted, in the threads that post, until ``take`` returns.

        It gives None, or what is to be read in place of the item, which ends its time, too.
        Nothing happens while items wait.
        """
        with self._lock:
            if not self._items:
                self._taker = taker

    async def take(self, timeout_s: float | None = None) -> list[Item]:
        """All that waits, at least one item; nothing if none comes for so long."""
        deadline = None if timeout_s is None else self._loop.time() + timeout_s
        while not self._items:
            # Somebody may have been woken for what was taken before the wake came.
            left_s = None if deadline is None else deadline - self._loop.time()
            if left_s is not None and left_s <= 0:
                break
            await self._wait(left_s)
        with self._lock:
            items, self._items, self._taker = self._items, [], None
        return items

    async def _wait(self, timeout_s: float | None) -> None:
        self._reader = reader = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, _end, reader)
        try:
            # A thread may have posted before the reader was there to be woken.
            if not self._items:
                await reader
        finally:
            self._reader = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._reader is not None:
            _end(self._reader)


def _end(reader: asyncio.Future[None]) -> None:
    if not reader.done():
        reader.set_result(None)
