"""Sends answers to clients: as streams, or whole once all texts have ended.

A stream shows by a timer that it is alive. A client that leaves ends its work. The protocols decide
what an answer contains.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from starlette.responses import Response

from edgellama.server.answers.answers import Answer
from edgellama.server.answers.events import Done, Ended, Event, Failed, Piece, Rest
from edgellama.server.answers.routing import state_of
from edgellama.server.connections.short_way import ShortWay, short_way
from edgellama.server.connections.wire import (
    SSE_TYPE,
    client_has_left,
    encode_json,
    json_bytes_response,
    json_response,
    sse,
    until_left,
)
from edgellama.server.errors import ErrorShape, RequestError, as_request_error

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from edgellama.generation.results import Generation

HEADERS_AFTER_S = 1.0
"""How long an early error may still decide the status of a stream, before its headers go out."""


class StreamWriter:
    """How a protocol writes what happens to an answer, piece by piece; a base to derive from.

    ``ping_s``: how often it says at least that it lives, if more often than the server does.
    """

    media_type = SSE_TYPE
    ping_s = math.inf
    error_shape: ErrorShape

    async def begin(self) -> bytes:
        """What comes before all pieces; a RequestError is a status of its own."""
        return b""

    def event(self, event: Event) -> bytes:
        """A piece, the end of a text, or the end of all."""
        raise NotImplementedError

    def ping(self, state: str) -> bytes:
        """What says that the server lives; ``state`` tells what it waits for."""
        return b": " + state.encode() + b"\n\n"

    def failure(self, error: RequestError) -> bytes:
        """What ends the stream where something went wrong after its headers."""
        return sse(self.error_shape(error))

    def close(self) -> None:
        """The stream has ended, however it did."""


Keep = Callable[["Generation"], Awaitable[None]]


async def respond(
    request: Request,
    answer: Answer,
    writer: Callable[[], StreamWriter],
    whole: Callable[[Sequence[Generation]], object],
    keep: Keep | None = None,
) -> Response:
    """An answer as a stream by ``writer`` if that was asked for, else as the object ``whole``.

    ``keep`` is told of every text before its end is: what goes wrong there is the answer's failure.
    """
    ping_s = state_of(request).settings.ping_s
    if answer.is_stream:
        return AnswerStream(answer, writer(), ping_s, keep)
    watching = asyncio.create_task(_end_when_left(answer, request.receive))
    try:
        results = await answer.results()
    finally:
        watching.cancel()
        await answer.close()
    if keep is not None:
        for result in results:
            await keep(result)

    def written() -> bytes:
        return encode_json(whole(results))

    # Thousands of tokens with their alternatives would keep the loop from other streams.
    is_large = any(result.logprobs is not None for result in results)
    return json_bytes_response(await asyncio.to_thread(written) if is_large else written())


async def _end_when_left(answer: Answer, receive: Receive) -> None:
    await until_left(receive)
    answer.stop(client_has_left())


class AnswerStream(Response):
    """An answer as a stream. An error within the first second is a status of its own."""

    def __init__(
        self, answer: Answer, writer: StreamWriter, ping_s: float, keep: Keep | None = None
    ) -> None:
        self.status_code = 200
        self.background = None
        self._answer = answer
        self._writer = writer
        self._ping_s = min(ping_s, writer.ping_s)
        self._keep = keep
        self._num_left = answer.num_texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        watching = asyncio.create_task(_end_when_left(self._answer, receive))
        way = short_way(scope)
        try:
            events = await self._answer.events(min(HEADERS_AFTER_S, self._ping_s))
            if events and isinstance(events[0], Failed):
                raise events[0].error
            beginning = await self._writer.begin()
        except RequestError as error:
            shaped = self._writer.error_shape(error)
            await json_response(shaped, error.status, error.headers)(scope, receive, send)
        else:
            with suppress(OSError):  # The client has left.
                await self._send_all(beginning, events, way, send)
        finally:
            watching.cancel()
            await self._answer.close()
            self._writer.close()
            if way is not None:
                way.close()

    async def _send_all(
        self, body: bytes, events: list[Event], way: ShortWay | None, send: Send
    ) -> None:
        headers = [
            (b"content-type", self._writer.media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            told, is_whole = await self._written(events, way)
            body += told
            await send({"type": "http.response.body", "body": body, "more_body": not is_whole})
            if is_whole:
                return
            body = b""
            if way is not None and way.is_free():
                self._answer.divert(partial(self._send_at_once, way))
            events = await self._answer.events(self._ping_s)
            if way is not None and events and isinstance(rest := events[0], Rest):
                way.write_rest(rest.chunk)
                events = events[1:]

    def _send_at_once(self, way: ShortWay, event: Event) -> Event | None:
        """Write a piece in the thread that made it; what is left for the loop to write."""
        if not isinstance(event, Piece):
            return event
        piece = self._writer.event(event)
        rest = way.send(piece) if piece else b""
        return Rest(rest) if rest else None

    async def _written(self, events: Sequence[Event], way: ShortWay | None) -> tuple[bytes, bool]:
        """Events up to the last one, or a sign of life if there are none; whether that was all."""
        is_silent = way is None or time.monotonic() - way.last_sent >= self._ping_s
        # Behind the end of all texts there is nothing to wait for but the stream's own end.
        is_waited_for = not events and is_silent and self._num_left > 0
        told = self._writer.ping(self._answer.state) if is_waited_for else b""
        for event in events:
            self._num_left -= isinstance(event, Ended)
            if isinstance(event, Ended) and self._keep is not None:
                try:
                    await self._keep(event.result)
                except Exception as error:
                    return told + self._writer.failure(as_request_error(error)), True
            if isinstance(event, Failed):
                return told + self._writer.failure(event.error), True
            told += self._writer.event(event)
            if isinstance(event, Done):
                return told, True
        return told, False
