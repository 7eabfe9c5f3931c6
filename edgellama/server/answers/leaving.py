"""How work that runs in a thread learns that nobody waits for it any more.

A thread cannot be stopped from outside, so it looks between two steps. Who notices that a client
has left is ``turns``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.server.answers.text_queue import Place
    from edgellama.server.errors import RequestError


class Leaving:
    """Says whether work is to end, since whoever asked has left; it looks between two steps."""

    error: RequestError | None = None
    _place: Place | None = None

    def stop(self, error: RequestError) -> None:
        """Let the work end, and say why; in the event loop."""
        self.error = error
        if self._place is not None:
            self._place.give_up()

    async def turn(self, place: Place) -> None:
        """Wait for the turn of a place; RequestError once the work is to end."""
        self.check()
        self._place = place
        try:
            await place.turn()
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._place = None

    def check(self) -> None:
        """RequestError if the work is to end."""
        if self.error is not None:
            raise self.error
