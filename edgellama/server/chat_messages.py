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
from edgellama.server.errors import refused

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")


_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", "tool_name"})
_WITHOUT_USE = frozenset(
    {
        *("id", "type", "status", "index", "refusal", "annotations", "audio"),
        *("thinking", "reasoning", "reasoning_content", "cache_control"),
    }
)
"""What replies come with, and clients send back, though no template shows it."""


def ordered_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with one system message at most, in front; RequestError for malformed ones."""
    if not messages:
        raise refused("messages", "messages is empty; allowed: at least one message")
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        role = message.get("role")
        place = f"messages[{number}]"
        if role not in ROLES:
            allowed = ", ".join(ROLES)
            raise refused(place, f"{place}.role is {shown(role)}; allowed: {allowed}")
        _check_keys(message, place)
        if role in SYSTEM_ROLES:
            system.append(_text(message.get("content"), place))
        else:
            turns.append(_turn(message, role, place))
    if not turns:
        raise refused("messages", "messages are the system's alone; allowed: one of the user too")
    if system:
        return [{"role": "system", "content": "\n\n".join(system)}, *turns]
    return turns


def _check_keys(message: Mapping[str, Any], place: str) -> None:
    """Refuse what the model would not get to see, such as images."""
    for key, value in message.items():
        if value and key not in _KEYS and key not in _WITHOUT_USE:
            allowed = ", ".join(sorted(_KEYS))
            raise refused(place, f"{place} has {shown(key)}; allowed: {allowed}")


def _turn(message: Mapping[str, Any], role: str, place: str) -> dict[str, Any]:
    """A message with what belongs to its role: calls of the assistant, whose result a tool's is."""
    calls = message.get("tool_calls") if role == "assistant" else None
    content = message.get("content")
    # Beside calls clients write null, or no content at all.
    turn = {"role": role, "content": "" if calls and not content else _text(content, place)}
    if calls:
        turn["tool_calls"] = calls
    if role == "tool":
        name = message.get("name") or message.get("tool_name")
        given = {"tool_call_id": message.get("tool_call_id"), "name": name}
        turn.update((key, value) for key, value in given.items() if value is not None)
    return turn


def _text(content: object, place: str) -> str:
    try:
        return content_text(content)
    except InvalidOptionError as error:
        raise refused(place, f"{place}: {error.what}") from None
