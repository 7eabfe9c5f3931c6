"""uvicorn's connections, with four additions.

A connection is closed if its request comes too slowly (slow loris) or if its client takes nothing
of the answer for too long; uvicorn only limits how long a connection may be idle between requests.
Requests of too many connections are marked, so that they are refused in their protocol's words.
Bytes that are no HTTP are answered in JSON. The pieces of a stream take a short way to the client.
``wire`` limits the size of bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgellama.server.connections.short_way import SHORT_WAY, ShortWay
from edgellama.server.connections.wire import JSON_TYPE, encode_json
from edgellama.server.errors import RequestError, openai_error
from edgellama.server.settings import Limits

CROWDED = "edgellama.crowded"
"""The extension of a request's scope that says that there are too many connections."""

MAX_REFUSED = 64
"""Connections beyond the limit that are told so; others are closed without a word."""


STALL_S = 600.0
"""A client that takes nothing of an answer for so long is taken for one that has left."""


class GuardedConnection(H11Protocol):
    """An HTTP/1.1 connection whose request must have come within ``limits.header_seconds``."""

    limits = Limits()
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected: its first request is awaited."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.limits.max_connections + MAX_REFUSED:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come; a request's first ones start the clock."""
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        super().data_received(data)

    def handle_events(self) -> None:
        """Begin a request whose head is whole."""
        cycle = self.cycle
        super().handle_events()
        if self.cycle is not cycle:
            self._stop_clock()
            # The request's task has not begun yet.
            extensions: Any = {CROWDED: len(self.connections) > self.limits.max_connections}
            if _is_chunked(self.scope):
                extensions[SHORT_WAY] = ShortWay(self.transport)
            self.scope["extensions"] = extensions

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; nothing is said behind an answer that has begun."""
        refusal = RequestError(400, "the request is no well-formed HTTP/1.1", code="invalid_http")
        body = encode_json(openai_error(refusal))
        headers = [
            ("content-type", JSON_TYPE),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            # A request whose body is wrong has no connection for its answer any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_clock()
        self._forget_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client takes less than there is for it; from now on it is watched."""
        super().pause_writing()
        self._watch_stall()

    def resume_writing(self) -> None:
        """The client has taken nearly all."""
        self._forget_stall()
        super().resume_writing()

    def _watch_stall(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(STALL_S, self._end_stall, waiting)

    def _end_stall(self, num_waiting: int) -> None:
        """Close the connection, unless something was taken meanwhile."""
        if self.transport.get_write_buffer_size() < num_waiting:
            self._watch_stall()
        else:
            self.transport.abort()

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.limits.header_seconds, self._too_slow)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        is_waited_for = self.cycle is None or self.cycle.response_complete
        if is_waited_for and not self.transport.is_closing():
            self.transport.close()


def _is_chunked(scope: Mapping[str, Any]) -> bool:
    """Whether a body of unknown length is sent in chunks, bare of encryption."""
    return (
        scope["http_version"] == "1.1" and scope["method"] != "HEAD" and scope["scheme"] == "http"
    )


def guarded_connection(limits_of_all: Limits) -> type[GuardedConnection]:
    """The class of connections with these limits, as uvicorn takes it."""

    class Connection(GuardedConnection):
        limits = limits_of_all

    return Connection
