"""Which requests belong together: those of one conversation go where its beginning is computed.

A client may name the conversation. If not, its first messages identify it, since they stay the same
while it grows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

HEADER = "x-session-id"
NAMED_FIELDS = ("prompt_cache_key", "user")
"""Of a body, in which clients name what belongs together; the first that is there counts."""
OPENING_FIELDS = ("system", "instructions", "prompt", "input", "input_prefix")
OPENING_CHARACTERS = 512
"""Of a prompt without messages: so many decide, since the end of a prompt is what grows."""
MOST_RESPONSES = 100_000


class ResponseKeys:
    """Keys of responses that later requests may go on from; the oldest are forgotten."""

    def __init__(self, most: int = MOST_RESPONSES) -> None:
        self._most = most
        self._keys: OrderedDict[str, str] = OrderedDict()

    def note(self, response_id: str, key: str) -> None:
        """A response was made where ``key`` leads."""
        self._keys[response_id] = key
        while len(self._keys) > self._most:
            self._keys.popitem(last=False)

    def find(self, response_id: object) -> str | None:
        """Where a response was made, if that is known."""
        return self._keys.get(response_id) if isinstance(response_id, str) else None


def affinity_key(headers: Mapping[str, str], body: bytes, responses: ResponseKeys) -> str | None:
    """What requests of one conversation have in common; None if nothing tells.

    ``headers`` have lower-case names. The body may be anything.
    """
    if given := headers.get(HEADER):
        return _digest("header", given)
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    if (key := responses.find(content.get("previous_response_id"))) is not None:
        return key
    for name in NAMED_FIELDS:
        if isinstance(value := content.get(name), str) and value:
            return _digest(name, value)
    opening = _opening(content)
    return _digest("opening", content.get("model"), *opening) if opening else None


def _opening(content: Mapping[str, Any]) -> list[object]:
    """What a conversation begins with, to the end of its first message that is no system's."""
    parts: list[object] = []
    for name in OPENING_FIELDS:
        value = content.get(name)
        if isinstance(value, str):
            parts.append([name, value[:OPENING_CHARACTERS]])
        elif name == "input" and isinstance(value, list):
            parts += _first_messages(value)
        elif value is not None:
            parts.append([name, value])
    messages = content.get("messages")
    return parts + (_first_messages(messages) if isinstance(messages, list) else [])


def _first_messages(messages: list[Any]) -> list[object]:
    found: list[object] = []
    for message in messages:
        found.append(message)
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer"):
            break
    return found


def _digest(*parts: object) -> str:
    encoded = msgspec.json.encode(parts, order="sorted")
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()
