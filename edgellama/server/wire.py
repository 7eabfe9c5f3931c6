"""Bytes in and out: a request's body as JSON within limits, answers as JSON or as streams.

Streams say on a timer that they live, and end their work when the client leaves. What goes into
them is the protocols' business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from edgellama.server.answers import Answer, Done, Event, Failed
from edgellama.server.errors import ErrorShape, RequestError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from edgellama.generation.results import Generation
    from edgellama.server.settings import Limits

HEADERS_AFTER_S = 1.0
"""How long an early error may still decide the status of a stream, before its headers go out."""
JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
encode_json = msgspec.json.encode


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS
) -> Response:
    """A JSON answer."""
    return Response(
        encode_json(content), status_code=status, headers=dict(headers), media_type=JSON_TYPE
    )


def ndjson_response(lines: Sequence[object]) -> Response:
    """A few lines of JSON."""
    return Response(b"".join(map(ndjson, lines)), media_type=NDJSON_TYPE)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request; RequestError if it is too long or comes too slowly."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limits.body_bytes:
        raise _too_long(declared, limits)
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > limits.body_bytes:
                raise _too_long(f"more than {limits.body_bytes}", limits)

    try:
        await asyncio.wait_for(read(), limits.body_seconds)
    except asyncio.TimeoutError:
        raise RequestError(
            408,
            f"the body did not arrive within {limits.body_seconds:g} s",
            code="timeout",
            headers={"connection": "close"},
        ) from None
    return bytes(body)


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The JSON object that a request sends."""
    body = await read_body(request, limits)
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise RequestError(
            400, "the body is JSON of too many levels", code="invalid_json"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the body is no JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError(
            400, "the body is JSON, but no object; allowed: {...}", code="invalid_json"
        )
    return value


def _too_long(given: str, limits: Limits) -> RequestError:
    return RequestError(
        413,
        f"the body has {given[:40]} bytes; allowed: up to {limits.body_bytes}",
        code="body_too_large",
        headers={"connection": "close"},
    )


async def wait_for_results(answer: Answer, receive: Receive) -> list[Generation]:
    """All texts of an answer, which ends if the client leaves."""
    watching = asyncio.create_task(_end_when_left(answer, receive))
    try:
        return await answer.results()
    finally:
        watching.cancel()
        await answer.close()


async def _end_when_left(answer: Answer, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.stop(RequestError(499, "the client has left", code="client_left"))


class StreamWriter:
    """How a protocol writes what happens to an answer, piece by piece; a base to derive from."""

    media_type = SSE_TYPE
    error_shape: ErrorShape

    def begin(self) -> bytes:
        """What comes before all pieces."""
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


class AnswerStream(Response):
    """An answer as a stream. An error within the first second is a status of its own."""

    def __init__(self, answer: Answer, writer: StreamWriter, ping_s: float) -> None:
        self.status_code = 200
        self.background = None
        self._answer = answer
        self._writer = writer
        self._ping_s = ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        watching = asyncio.create_task(_end_when_left(self._answer, receive))
        try:
            first = await self._answer.next(min(HEADERS_AFTER_S, self._ping_s))
            if isinstance(first, Failed):
                error = first.error
                shaped = self._writer.error_shape(error)
                await json_response(shaped, error.status, error.headers)(scope, receive, send)
                return
            await self._send_all(first, send)
        except OSError:
            pass  # The client has left.
        finally:
            watching.cancel()
            await self._answer.close()

    async def _send_all(self, first: Event | None, send: Send) -> None:
        headers = [
            (b"content-type", self._writer.media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        event: Event | None = first
        pending = self._writer.begin()
        while True:
            if event is not None:
                is_last = isinstance(event, (Done, Failed))
                pending += (
                    self._writer.failure(event.error)
                    if isinstance(event, Failed)
                    else self._writer.event(event)
                )
                await send(
                    {"type": "http.response.body", "body": pending, "more_body": not is_last}
                )
                if is_last:
                    return
            else:
                pending += self._writer.ping(self._answer.state)
                await send({"type": "http.response.body", "body": pending, "more_body": True})
            pending = b""
            event = await self._answer.next(self._ping_s)


def sse(content: object, event: str | None = None) -> bytes:
    """One event of a stream."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + encode_json(content) + b"\n\n"


def ndjson(content: object) -> bytes:
    """One line of a stream."""
    return encode_json(content) + b"\n"


def now() -> int:
    """Seconds since 1970, as protocols write times."""
    return int(time.time())
