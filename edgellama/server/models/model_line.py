"""The line of requests that wait for a model that cannot be used at once, in order of arrival.

All who wait for the same model get it together, so that it is not unloaded and loaded again between
two of them. ``model_shelf`` loads the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from edgellama.server.connections.wire import client_has_left
from edgellama.server.models.loaded_model import LoadedModel


class AwaitedModel:
    """The name of a model that is waited for, and those who wait for it.

    Which file has this name may change meanwhile.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._places: list[asyncio.Future[LoadedModel]] = []

    def check_wanted(self) -> None:
        """RequestError if nobody waits for it any more."""
        if all(place.done() for place in self._places):
            raise client_has_left()

    def join(self) -> asyncio.Future[LoadedModel]:
        """A place of somebody who waits for it, and leaves by cancelling the place."""
        self._places.append(asyncio.get_running_loop().create_future())
        return self._places[-1]

    def give(self, entry: LoadedModel) -> None:
        """Let all go on, each with a use of the model."""
        for place in self._places:
            if not place.done():
                entry.begin_use()
                place.set_result(entry)

    def refuse(self, error: Exception) -> None:
        """Tell all why they do not get it."""
        for place in self._places:
            if not place.done():
                place.set_exception(error)


class ModelLine:
    """Lets models be brought one after another, in the order in which they were asked for."""

    def __init__(self, bring: Callable[[AwaitedModel], Awaitable[LoadedModel]]) -> None:
        """``bring`` finds a model loaded or loads it, and may raise if nobody wants it any more."""
        self._bring = bring
        self._awaited: dict[str, AwaitedModel] = {}
        self._bringing: asyncio.Task[None] | None = None

    def join(self, name: str) -> asyncio.Future[LoadedModel]:
        """A place behind all others, or beside those who wait for the same model.

        Its result is the model with one use more, which is ended by whoever waits.
        """
        place = self._awaited.setdefault(name, AwaitedModel(name)).join()
        if self._bringing is None:
            self._bringing = asyncio.create_task(self._bring_all())
        return place

    def let_pass(self, loaded: Mapping[str, LoadedModel]) -> None:
        """Let those go on whose model is loaded, while another is still on its way."""
        for name in self._awaited.keys() & loaded.keys():
            self._awaited.pop(name).give(loaded[name])

    async def close(self) -> None:
        """Wait until nothing is brought any more."""
        if self._bringing is not None:
            await asyncio.wait([self._bringing])

    async def _bring_all(self) -> None:
        try:
            while self._awaited:
                name, awaited = next(iter(self._awaited.items()))
                try:
                    entry = await self._bring(awaited)
                except Exception as error:
                    del self._awaited[name]
                    awaited.refuse(error)
                else:
                    del self._awaited[name]
                    awaited.give(entry)
        finally:
            self._bringing = None
