"""The models that are in memory: those that names lead to, those that end their last texts.

It closes each once nobody uses it. ``model_shelf`` decides which one is loaded, and which must go.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from edgellama.server.models.loaded_model import LoadedModel

logger = logging.getLogger(__name__)


class HeldModels:
    """Loaded models by name, and those that are retired or being closed.

    ``freed`` is set whenever one is used no longer, or is closed.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, LoadedModel] = {}
        self.freed = asyncio.Event()
        self._retired: list[LoadedModel] = []
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_closing(self) -> bool:
        """Whether one is being closed, and has not given all of its memory back."""
        return bool(self._closing)

    @property
    def in_memory(self) -> list[LoadedModel]:
        """All that are loaded, also those of other files than their names mean now."""
        return [*self.loaded.values(), *self._retired]

    def add(self, entry: LoadedModel) -> None:
        """Let its name lead to it, which nobody uses yet."""
        self.loaded[entry.model.name] = entry
        self._rest(entry)

    def end_use(self, entry: LoadedModel) -> None:
        """One use of it is over; after the last, it rests, or is closed if it is retired."""
        entry.num_uses -= 1
        self.freed.set()
        if entry.num_uses:
            return
        if self.loaded.get(entry.model.name) is entry:
            self._rest(entry)
        else:
            self._retired = [other for other in self._retired if other is not entry]
            self._close_later(entry)

    def let_go(self, entry: LoadedModel) -> None:
        """Take it off if nobody uses it."""
        if not entry.num_uses:
            self.take_off(entry)

    def take_off(self, entry: LoadedModel) -> None:
        """Let nobody find it any more, and close it in a task; nothing if that has been done."""
        if self.loaded.get(entry.model.name) is entry:
            entry.stop_timer()
            del self.loaded[entry.model.name]
            self._close_later(entry)

    def retire(self, entry: LoadedModel) -> None:
        """Let nobody find it any more, and close it once nobody uses it."""
        if not entry.num_uses:
            self.take_off(entry)
        elif self.loaded.get(entry.model.name) is entry:
            del self.loaded[entry.model.name]
            self._retired.append(entry)

    async def wait_until_closed(self) -> None:
        """Until what was taken off has given its memory back."""
        while self._closing:
            await asyncio.wait(self._closing)

    def _rest(self, entry: LoadedModel) -> None:
        """Nobody uses it now: it goes later, unless somebody comes."""
        entry.last_use = time.time()
        loop = asyncio.get_running_loop()
        if math.isfinite(entry.keep_alive_s):
            entry.timer = loop.call_later(entry.keep_alive_s, self.let_go, entry)

    def _close_later(self, entry: LoadedModel) -> None:
        task = asyncio.get_running_loop().create_task(self._close(entry))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, entry: LoadedModel) -> None:
        logger.info("unloading %s", entry.model.name)
        try:
            await asyncio.to_thread(entry.llama.close)
        finally:
            self.freed.set()
