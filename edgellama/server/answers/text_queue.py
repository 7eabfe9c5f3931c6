"""The queue for making texts: first come, first served, up to a limit.

It belongs to the event loop, and does not know what is done with a place.
"""

from __future__ import annotations

import asyncio
from collections import deque

from edgellama.server.errors import too_busy


class TextQueue:
    """``width`` turns at once; ``max_waiting`` requests wait for one.

    Example:
        >>> import asyncio
        >>> from edgellama.server.answers.text_queue import TextQueue
        >>> async def main():
        ...     queue = TextQueue(width=1, max_waiting=1)
        ...     first, second = queue.place(), queue.place()
        ...     await first.turn()
        ...     return second.position, queue.num_running, queue.num_waiting
        >>> asyncio.run(main())
        (1, 1, 1)
    """

    def __init__(self, width: int, max_waiting: int) -> None:
        self.width = width
        self.max_waiting = max_waiting
        self.num_running = 0
        self._places: deque[Place] = deque()

    @property
    def num_waiting(self) -> int:
        """Places whose turn has not come."""
        return len(self._places)

    def place(self) -> Place:
        """A place at the end of the line; RequestError (429) where the line is full."""
        num_beyond = len(self._places) + 1 - (self.width - self.num_running)
        if num_beyond > self.max_waiting:
            raise self._full()
        place = Place(self)
        self._places.append(place)
        return place

    def _full(self) -> Exception:
        return too_busy(
            f"the queue is full: {self.num_running} texts are being made and "
            f"{len(self._places)} wait; allowed: {self.max_waiting} waiting"
        )

    def position_of(self, place: Place) -> int:
        """How many have their turn before it, and itself: 1 is next; 0 is not in the line."""
        try:
            return self._places.index(place) + 1
        except ValueError:
            return 0

    def advance(self) -> None:
        """Give free turns to the first requests that want theirs."""
        for place in list(self._places):
            if self.num_running >= self.width:
                return
            if place.wanted is not None and not place.wanted.done():
                self._places.remove(place)
                self.num_running += 1
                place.has_turn = True
                place.wanted.set_result(None)

    def leave(self, place: Place) -> None:
        """Give up a place or a turn."""
        if place.has_turn:
            place.has_turn = False
            self.num_running -= 1
        elif place in self._places:
            self._places.remove(place)
        self.advance()


class Place:
    """Somebody's place in a queue. A context manager; leaving it gives the turn on."""

    def __init__(self, queue: TextQueue) -> None:
        self._queue = queue
        self.has_turn = False
        self.wanted: asyncio.Future[None] | None = None

    @property
    def position(self) -> int:
        """1 is next; 0 has its turn, or has left."""
        return self._queue.position_of(self)

    async def turn(self) -> None:
        """Wait for the turn."""
        self.wanted = asyncio.get_running_loop().create_future()
        self._queue.advance()
        await self.wanted

    def give_up(self) -> None:
        """Have whoever waits for the turn wait no longer: it is cancelled."""
        if self.wanted is not None and not self.wanted.done():
            self.wanted.cancel()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *error: object) -> None:
        self._queue.leave(self)
