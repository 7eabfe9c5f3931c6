"""Loads models when requests ask for them, and unloads them when none does.

A model's footprint is predicted from its header before it is loaded, and models without work make
room for it. ``catalogue`` knows the names, ``model_line`` the order of those who wait, and
``held_models`` what is loaded and how it goes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgellama.quant.rope_choice import scaled_length
from edgellama.server.errors import RequestError, too_busy
from edgellama.server.models.catalogue import Catalogue, ServedModel
from edgellama.server.models.held_models import HeldModels
from edgellama.server.models.loaded_model import LoadedModel
from edgellama.server.models.model_line import AwaitedModel, ModelLine
from edgellama.server.settings import Opener

if TYPE_CHECKING:
    from edgellama.llama import Llama

logger = logging.getLogger(__name__)

MODEST_CONTEXT = 2048
"""Tokens that must fit where nobody says how many."""
WAIT_FOR_ROOM_S = 120.0
"""How long no text of others may end before those who wait for room are sent away."""


class ModelShelf:
    """Models by name, each loaded once.

    If a name means another file from some time on, the texts of the old one go on, and new ones
    get the new one.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        engine: Mapping[str, Any],
        keep_alive_s: Callable[[ServedModel], float],
        available_bytes: Callable[[], int | None],
        openers: Mapping[str, Opener] = MappingProxyType({}),
        on_compile: Callable[[int, int], None] | None = None,
    ) -> None:
        """``engine``: options of ``Llama``. ``keep_alive_s``: of a model that nobody asks for.

        ``openers``: how models of some names are loaded instead. ``on_compile`` hears of
        (compiled, total) kernels of a model.
        """
        self.catalogue = catalogue
        self._held = HeldModels()
        self._engine = engine
        self._keep_alive_s = keep_alive_s
        self._available_bytes = available_bytes
        self._openers = openers
        self._on_compile = on_compile
        self._line = ModelLine(self._bring)
        self._is_short_of_room = False
        self._stopped: RequestError | None = None

    @asynccontextmanager
    async def lease(
        self, name: str | None, keep_alive_s: float | None = None
    ) -> AsyncIterator[Llama]:
        """The model of a name, loaded first if need be; it stays as long as this is open.

        Once another model is known to need room, a loaded one is waited for, too, in order of
        arrival. Until then, and while another is being loaded, a loaded one is there at once.
        """
        model = self.catalogue.find(name)
        entry = self.loaded.get(model.name)
        if entry is not None and entry.model is not model:
            self._held.retire(entry)
            entry = None
        if entry is None or self._is_short_of_room:
            entry = await self._wait_for(model)
        else:
            entry.begin_use()
        try:
            yield entry.llama
        finally:
            if keep_alive_s is not None:
                entry.keep_alive(keep_alive_s)
            self._held.end_use(entry)

    async def _wait_for(self, model: ServedModel) -> LoadedModel:
        """A model in use, once it is its turn and it is loaded."""
        place = self._line.join(model.name)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._held.end_use(place.result())
            self._held.freed.set()  # Perhaps nobody else waits for room.
            raise

    def context_length(self, model: ServedModel) -> int | None:
        """Tokens that a model's context has as it is loaded, else as it would, or its file says."""
        entry = self.loaded.get(model.name)
        if entry is not None:
            return entry.llama.context_length
        if length := self._engine.get("context_length"):
            return int(length)
        choice, original = self._engine.get("rope_scaling"), model.facts.original_length
        if choice is None or original is None:
            return model.facts.context_length
        return scaled_length(original, choice)

    async def unload(self, name: str | None) -> None:
        """Let go of a model once nobody uses it; nothing if it is not loaded."""
        entry = self.loaded.get(self.catalogue.find(name).name)
        if entry is not None:
            entry.keep_alive_s = 0.0
            self._held.let_go(entry)
            await self._held.wait_until_closed()

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """The loaded models that are found by their names."""
        return self._held.loaded

    @property
    def in_memory(self) -> list[LoadedModel]:
        """All that are loaded, also those of other files than their names mean now."""
        return self._held.in_memory

    def outdate(self, name: str) -> None:
        """Let go of a model, once nobody uses it, if its name means another file now."""
        entry = self.loaded.get(name)
        if entry is not None and not self.catalogue.holds(entry.model):
            self._held.retire(entry)

    def stop(self, error: RequestError) -> None:
        """Load no more models; whose kernels are being compiled is given up before the next one."""
        self._stopped = error
        self._held.freed.set()

    def _check_running(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _hear_of_kernels(self, done: int, total: int) -> None:
        self._check_running()
        if self._on_compile is not None:
            self._on_compile(done, total)

    async def close(self) -> None:
        """Let go of all models; nobody may use one any more."""
        await self._line.close()
        for entry in list(self.loaded.values()):
            self._held.take_off(entry)
        await self._held.wait_until_closed()

    async def _bring(self, awaited: AwaitedModel) -> LoadedModel:
        """What is waited for: loaded already, or once there is room for it."""
        awaited.check_wanted()
        self.outdate(awaited.name)
        if (entry := self.loaded.get(awaited.name)) is not None:
            return entry
        try:
            model, needed = await self._find_with_room(awaited)
        finally:
            self._is_short_of_room = False
        for name in list(self.loaded):
            self.outdate(name)
        self._line.let_pass(self.loaded)
        started = time.perf_counter()
        # The client may leave meanwhile; the model is kept for the next one.
        llama = await asyncio.to_thread(self._open, model)
        logger.info("loaded %s in %.2f s", model.name, time.perf_counter() - started)
        entry = LoadedModel(model, llama, needed, self._keep_alive_s(model))
        if not self.catalogue.holds(model):
            entry.outdate()
        self._held.add(entry)
        return entry

    def _check_needed(self, awaited: AwaitedModel) -> None:
        """RequestError if the server ends, or nobody waits for a model any more."""
        self._check_running()
        awaited.check_wanted()

    async def _find_with_room(self, awaited: AwaitedModel) -> tuple[ServedModel, int]:
        """The model that has the name now, and the bytes it will take, once they are free."""
        model = self.catalogue.named(awaited.name)
        needed = await self._make_room(awaited, model)
        if not self.catalogue.holds(model):  # It was made anew, and may need more.
            model = self.catalogue.named(awaited.name)
            needed = await self._make_room(awaited, model)
        self._check_needed(awaited)
        return model, needed

    def _open(self, model: ServedModel) -> Llama:
        from edgellama.llama import Llama

        if (opener := self._openers.get(model.name)) is not None:
            return opener.open()
        return Llama(model.path, **self._engine, progress=self._hear_of_kernels)

    async def _make_room(self, awaited: AwaitedModel, model: ServedModel) -> int:
        """Unload what has no work, the least recently used first, until the model fits.

        No text begins while those that run are waited for, so that they all end. The result is
        the bytes that it will take.
        """
        needed = await asyncio.to_thread(self.predicted_bytes, model)
        while (available := self._free_bytes()) is not None and available < needed:
            self._check_needed(awaited)
            if self._held.is_closing:
                await self._held.wait_until_closed()
                continue
            idle = [entry for entry in self.loaded.values() if not entry.num_uses]
            if idle:
                self._held.take_off(min(idle, key=lambda entry: entry.last_use))
                continue
            text = f"{model.name} needs {needed / 1e9:.2f} GB and {available / 1e9:.2f} GB are free"
            if not self.in_memory:
                raise RequestError(507, f"{text}; take a smaller model or context")
            if not self._is_short_of_room:
                others = ", ".join(entry.model.name for entry in self.in_memory)
                logger.info("%s; waiting for %s", text, others)
            self._is_short_of_room = True
            self._held.freed.clear()
            try:
                await asyncio.wait_for(self._held.freed.wait(), WAIT_FOR_ROOM_S)
            except asyncio.TimeoutError:
                raise too_busy(f"{text}; other models are in use", "no_memory", 503) from None
        return needed

    def _free_bytes(self) -> int | None:
        """What is free beside the weights of loaded models, which the system counts as free."""
        available = self._available_bytes()
        if available is None:
            return None
        return max(0, available - sum(entry.model.num_bytes for entry in self.in_memory))

    @property
    def predicted_tokens(self) -> int:
        """The length of the text that ``predicted_bytes`` counts."""
        return self._engine.get("context_length") or MODEST_CONTEXT

    def predicted_bytes(self, model: ServedModel) -> int:
        """Bytes that loading the model and one text of it will take beside what runs already."""
        from edgellama.measure.file_footprint import predict_footprint
        from edgellama.models.names import resolve

        if (opener := self._openers.get(model.name)) is not None:
            return opener.num_bytes
        draft = self._engine.get("draft")
        footprint = predict_footprint(
            model.path,
            context_length=self.predicted_tokens,
            kv_type=self._engine.get("kv_type") or "f16",
            num_threads=self._engine.get("num_threads"),
            draft=None if draft is None else resolve(draft),
            attention=self._engine.get("attention") or "auto",
        )
        return footprint.total_bytes - footprint.code_bytes
