"""Long work that several clients may wait for, such as downloads, with its progress.

A job ends early when the last client that waits for it has left.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Work: TypeAlias = "Callable[[Job], object]"
"""Runs in a thread. It notes how far it is, and ends by an error once it is cancelled."""


class Job:
    """Work on its way; ``done`` and ``total`` are bytes, total 0 is not known yet."""

    def __init__(self, name: str, work: Work) -> None:
        self.name = name
        self.done = self.total = 0
        self._num_waiting = 0
        self._cancelled = threading.Event()
        self.task: asyncio.Task[object] = asyncio.create_task(asyncio.to_thread(work, self))

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self._cancelled.is_set()

    @property
    def is_running(self) -> bool:
        """Whether a new client may still wait for it."""
        return not (self.task.done() or self.is_cancelled)

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

    def note(self, done: int, total: int) -> None:
        """Note how far the job has come; called from its thread."""
        self.done, self.total = done, total


class Jobs:
    """All that are on their way, each name once. Lives in the event loop."""

    def __init__(self) -> None:
        self.running: dict[str, Job] = {}

    def start(self, name: str, work: Work) -> Job:
        """The job of a name, begun now unless it is on its way."""
        job = self.running.get(name)
        if job is None or not job.is_running:
            job = self.running[name] = Job(name, work)
            job.task.add_done_callback(lambda _: self._forget(name, job))
        return job

    def cancel_all(self) -> None:
        """End them all soon."""
        for job in self.running.values():
            job.cancel()

    async def close(self) -> None:
        """End them all, and wait for it."""
        self.cancel_all()
        tasks = [job.task for job in self.running.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, name: str, job: Job) -> None:
        if self.running.get(name) is job:
            del self.running[name]
        if not job.task.cancelled():
            job.task.exception()  # Perhaps nobody waits for it any more.
