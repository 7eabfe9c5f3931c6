"""Reads a request's body as JSON within limits; writes answers as JSON, events and lines.

``streaming`` sends answers that come piece by piece.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import Response

from edgellama.quant.error_text import shown
from edgellama.server.errors import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from edgellama.server.settings import Limits

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
encode_json = msgspec.json.encode
Result = TypeVar("Result")


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS
) -> Response:
    """A JSON answer."""
    return Response(
        encode_json(content), status_code=status, headers=dict(headers), media_type=JSON_TYPE
    )


def json_bytes_response(content: bytes) -> Response:
    """An answer whose JSON has been written elsewhere."""
    return Response(content, media_type=JSON_TYPE)


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
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError(
            415, f"content-encoding is {shown(encoding)}; allowed: none", code="invalid_encoding"
        )
    body = await read_body(request, limits)
    try:
        value = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
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


async def until_left(receive: Receive) -> None:
    """Return once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What ``work`` gives; it is cancelled if the client leaves (RequestError)."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_left(request.receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise client_has_left()
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()


def client_has_left() -> RequestError:
    """The error that ends the work for a client who has left."""
    return RequestError(499, "the client has left", code="client_left")


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
