"""Waits for a message that probably comes as long after the last one as those before it did.

A thread that sleeps takes 0.1 ms to wake up, and finds the caches of its core empty. So the waiting
thread wakes shortly before, fills the caches, and then looks for the message again and again, for a
few milliseconds at most. It does so on a core that nobody else wants, or not at all.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable

from edgellama.cluster.connections.free_core import FreeCore

READ_BYTES = 1 << 16
"""What is read at once where it is there: a token's message and its length, in one call."""
LEAD_S, LONGEST_LOOK_S = 5e-4, 3.5e-3
"""How long before the usual time it is looked for, and how long in all."""
NUM_WAITS, LEAST_WAITS = 4, 2
"""By how many waits the next one is foretold: it is as long as the shortest of them."""


class ExpectedMessage:
    """The messages of one connection that are alike, such as a text's tokens; for one thread."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=NUM_WAITS)
        self._core = FreeCore()
        self._since = 0.0

    def read(self, connection: socket.socket, meanwhile: Callable[[], None]) -> bytes:
        """What comes at about the usual time; nothing if it is late, or is not looked for.

        ``meanwhile`` is called shortly before.
        """
        self._since = time.perf_counter()
        if len(self._waits) < LEAST_WAITS or not self._core.may_be_tried:
            return b""
        usual_s, pause_ms = connection.gettimeout(), int(1e3 * (min(self._waits) - LEAD_S))
        try:
            self._core.enter()
            if pause_ms >= 1:
                connection.settimeout(pause_ms / 1e3)
                try:
                    return connection.recv(READ_BYTES)
                except TimeoutError:
                    pass
            if not self._core.is_free() and not self._core.find():
                return b""
            meanwhile()
            connection.settimeout(0.0)
            return self._looked_for(connection)
        finally:
            self._core.leave()
            connection.settimeout(usual_s)

    def note(self) -> None:
        """Note that the message has come."""
        self._waits.append(time.perf_counter() - self._since)

    def _looked_for(self, connection: socket.socket) -> bytes:
        until = time.perf_counter() + LONGEST_LOOK_S
        while self._core.is_free() and time.perf_counter() < until:
            try:
                return connection.recv(READ_BYTES)
            except BlockingIOError:
                pass
        return b""
