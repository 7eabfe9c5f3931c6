"""How work in a thread learns that nobody waits for it any more.

A thread cannot be stopped from outside, so it looks between two steps. ``turns`` notices that a
client has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from edgellama.server.answers.text_queue import Place
    from edgellama.server.errors import RequestError

Found = TypeVar("Found")


class Leaving:
    """Says whether work is to end, since whoever asked has left; it looks between two steps."""

    error: RequestError | None = None
    _waiting: asyncio.Task[Any] | None = None

    def stop(self, error: RequestError) -> None:
        """Let the work end, and say why; in the event loop."""
        self.error = error
        if self._waiting is not None:
            self._waiting.cancel()

    async def turn(self, place: Place) -> None:
        """Wait for the turn of a place; RequestError once the work is to end."""
        await self.until(place.turn())

    async def until(self, wait: Coroutine[Any, Any, Found]) -> Found:
        """What is waited for; RequestError once the work is to end."""
        self._waiting = asyncio.create_task(wait)
        if self.error is not None:
            self._waiting.cancel()
        try:
            return await self._waiting
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._waiting = None

    def check(self) -> None:
        """RequestError if the work is to end."""
        if self.error is not None:
            raise self.error
