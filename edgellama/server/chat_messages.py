"""Messages as clients send them, put into the form and order that chat templates take.

Templates raise at a system message that is not the first, and at roles that they do not know; so
system messages are joined in front, and ``developer`` is another word for system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgellama.generation.messages import content_text
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.server.errors import RequestError

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant")


def ordered_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with one system message at most, in front; RequestError for malformed ones."""
    if not messages:
        raise _wrong("messages", "messages is empty; allowed: at least one message")
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        role = message.get("role")
        place = f"messages[{number}]"
        if role not in ROLES:
            allowed = ", ".join(ROLES)
            raise _wrong(place, f"{place}.role is {shown(role)}; allowed: {allowed}")
        text = _text(message.get("content"), place)
        if role in SYSTEM_ROLES:
            system.append(text)
        else:
            turns.append({"role": role, "content": text})
    if not turns:
        raise _wrong("messages", "messages are the system's alone; allowed: one of the user too")
    if system:
        return [{"role": "system", "content": "\n\n".join(system)}, *turns]
    return turns


def _text(content: object, place: str) -> str:
    try:
        return content_text(content)
    except InvalidOptionError as error:
        raise _wrong(place, f"{place}: {error.what}") from None


def _wrong(param: str, text: str) -> RequestError:
    return RequestError(400, text, param=param, code="invalid_value")
