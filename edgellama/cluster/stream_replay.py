"""Continues a stream on another replica, from where the client has it already.

The same request with the same seed gives the same events, except for the names and times in them.
If a stream is lost, it is requested again, and the client gets the events that it does not have
yet, under the names that it knows. This module sees only the bytes of events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from edgellama.quant.errors import EdgellamaError
from edgellama.server.connections.wire import ndjson, sse
from edgellama.server.errors import RequestError, error_shape

SEPARATORS = {b"text/event-stream": b"\n\n", b"application/x-ndjson": b"\n"}
"""What stands behind each event, by the type of an answer."""
SEEDED: Mapping[str, str | None] = {
    **dict.fromkeys(("/v1/chat/completions", "/v1/completions", "/v1/messages"), None),
    "/v1/responses": None,
    **dict.fromkeys(("/api/chat", "/api/generate"), "options"),
}
"""Paths under which texts are made, and the field of a body that has the seed among others."""
_OWN = re.compile(
    rb'"([a-z_]*(?:id|created|_at|_duration|_tokens))":("(?:[^"\\]|\\.)*"|-?[0-9.]+|null)'
)
"""Fields that may differ between two makings of one stream."""
_NAME = re.compile(rb'"[a-z_]*(?:id|created)":("[^"\\]+"|[0-9]+)')
"""Those of them that stay the same within a stream."""


class DivergedError(EdgellamaError):
    """The stream that is made anew is another one."""


class SentStream:
    """What a client has of a stream."""

    def __init__(self, media_type: bytes) -> None:
        """``media_type``: the answer's content-type, with or without its parameters."""
        self._separator = SEPARATORS.get(media_type.split(b";")[0].strip())
        self._rest = b""
        self._digests: list[bytes] = []
        self._names: dict[bytes, None] = {}

    def note(self, body: bytes) -> None:
        """Note that these bytes were sent."""
        events, self._rest = _cut(self._rest + body, self._separator)
        for event in events:
            if not _is_comment(event):
                self._digests.append(_digest(event))
                self._names.update(dict.fromkeys(_NAME.findall(event)))

    def again(self) -> Replay:
        """What takes the same stream once more; DivergedError if that ended within an event."""
        if self._rest:
            raise DivergedError("it was lost in the middle of an event")
        return Replay(self._separator, self._digests.copy(), list(self._names))


class Replay:
    """A stream that is made anew; made by ``SentStream.again``."""

    def __init__(self, separator: bytes | None, digests: list[bytes], names: list[bytes]) -> None:
        self._separator, self._digests, self._known = separator, digests, names
        self._rest = b""
        self._num_seen = 0
        self._names: dict[bytes, None] = {}

    def new(self, body: bytes) -> bytes:
        """What of these bytes the client lacks. DivergedError if the two streams differ."""
        events, self._rest = _cut(self._rest + body, self._separator)
        return b"".join(self._passed(event) for event in events)

    def end(self) -> bytes:
        """What is left at the end of the stream; DivergedError for one that ended too early."""
        if self._num_seen < len(self._digests):
            raise DivergedError("what was made anew is shorter")
        return self._rest

    def _passed(self, event: bytes) -> bytes:
        if _is_comment(event):
            return event
        if self._num_seen < len(self._digests):
            if _digest(event) != self._digests[self._num_seen]:
                raise DivergedError("what was made anew is another one")
            self._num_seen += 1
            self._names.update(dict.fromkeys(_NAME.findall(event)))
            return b""
        # The client knows the first stream's names.
        for own, known in zip(self._names, self._known, strict=False):
            event = event.replace(b":" + own, b":" + known)
        return event


def lost_answer(why: str) -> RequestError:
    """The last message of an answer that was lost and cannot be continued."""
    return RequestError(
        503, f"the replica that made this answer was lost, and {why}", code="replica_lost"
    )


def failure_event(path: str, media_type: bytes, error: RequestError) -> bytes:
    """An error at the end of a stream, as clients of its protocol expect it; else nothing."""
    separator = SEPARATORS.get(media_type.split(b";")[0].strip())
    if separator is None:
        return b""
    content = error_shape(path)(error)
    if separator == b"\n":
        return ndjson(content)
    if path.startswith("/v1/responses"):
        return sse({"type": "error", "code": error.code, "message": error.what, "param": None},
                   "error")  # fmt: skip
    return sse(content, "error" if path.startswith("/v1/messages") else None)


def with_seed(path: str, body: bytes, seed: int) -> bytes:
    """The body of a request for a text, with a seed if it has none; anything else as it is."""
    if path not in SEEDED:
        return body
    try:
        content = msgspec.json.decode(body)
        place = content if SEEDED[path] is None else content.setdefault(SEEDED[path], {})
        if _has_seed(place):
            return body
        place["seed"] = seed
        return msgspec.json.encode(content)
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return body


def _has_seed(options: Mapping[str, Any]) -> bool:
    seed = options.get("seed")
    return seed is not None and not (isinstance(seed, int) and seed < 0)


def _cut(data: bytes, separator: bytes | None) -> tuple[list[bytes], bytes]:
    """Whole events, and the beginning of the next. Without events nothing is whole."""
    if separator is None:
        return [], data
    *events, rest = data.split(separator)
    return [event + separator for event in events], rest


def _is_comment(event: bytes) -> bool:
    return event.startswith(b":")


def _digest(event: bytes) -> bytes:
    return blake2b(_OWN.sub(rb'"\1":0', event), digest_size=8).digest()
