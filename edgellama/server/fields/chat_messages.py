"""Brings the messages of clients into the form and order that chat templates accept.

Templates raise errors at roles that they do not know, and many at a system message that is not the
first. So ``developer`` counts as system. A system message stays behind a reply only if the template
shows it there; otherwise all are joined at the beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgellama.generation.chat.messages import content_text, parted_thinking
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.server.errors import refused

SYSTEM_ROLES = ("system", "developer")
MAX_MESSAGES = 1 << 16
"""More than any context has room for, and few enough to be looked at before others wait."""
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")


_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", "tool_name"})
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""What was thought before a reply, by several names; templates that show it have it again."""
_WITHOUT_USE = frozenset(
    {
        *("id", "type", "status", "index", "refusal", "annotations", "audio"),
        *(*_REASONING_KEYS, "reasoning_details", "reasoning_text", "reasoning_opaque"),
        *("cot_id", "cot_summary", "encrypted_content", "phase", "parsed", "citations"),
        *("cache_control", "copilot_cache_control", "providerOptions", "provider_metadata"),
        *("model", "created", "created_at", "timestamp", "usage", "metadata", "is_error"),
        *("done", "done_reason", "finish_reason", "stop_reason", "logprobs", "prefix"),
    }
)
"""What replies come with, and clients send back, though few templates show it; and what clients
note of a message for caches, and for themselves."""


def ordered_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with those of the system that come before a reply as one in front.

    A later one stays behind that reply, but before what the user says: agents tell news in this
    way, and all that was computed before is found again. A last message of the assistant that says
    nothing begins nothing, and is left out. Where the system's messages are all, they are the
    user's: templates show no system message alone. RequestError for malformed ones.
    """
    if not messages:
        raise refused("messages", "messages is empty; allowed: at least one message")
    if len(messages) > MAX_MESSAGES:
        given = f"messages are {len(messages)}"
        raise refused("messages", f"{given}; allowed: up to {MAX_MESSAGES}")
    order = _Order()
    for number, message in enumerate(messages):
        role = message.get("role")
        place = f"messages[{number}]"
        if role not in ROLES:
            allowed = ", ".join(ROLES)
            raise refused(place, f"{place}.role is {shown(role)}; allowed: {allowed}")
        _check_keys(message, place)
        if role in SYSTEM_ROLES:
            order.add_system(_text(message.get("content"), place))
        else:
            order.add_turn(_turn(message, role, place))
    system, turns = order.system, order.turns()
    if turns and _is_empty_reply(turns[-1]):
        del turns[-1]
    if not (turns or system):
        raise refused("messages", "messages say nothing; allowed: at least one that does")
    said = {"role": "system" if turns else "user", "content": "\n\n".join(system)}
    return [said, *turns] if system else turns


def system_in_front(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages with all that the system says as one, in front."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    turns = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(system)}, *turns] if system else turns


class _Order:
    """Messages that come one by one, each kept where it belongs, in one step."""

    def __init__(self) -> None:
        self.system: list[str] = []
        self._turns: list[dict[str, Any]] = []
        self._asked: list[dict[str, Any]] = []
        self._news: list[str] = []
        self._has_reply = False

    def add_turn(self, turn: dict[str, Any]) -> None:
        """Keep a message of the user, the assistant or a tool."""
        if turn["role"] == "user":
            self._asked.append(turn)
            return
        self._end_round()
        self._has_reply |= turn["role"] == "assistant"
        self._turns.append(turn)

    def add_system(self, text: str) -> None:
        """Keep a message of the system: in front, or between a reply and what the user says."""
        (self._news if self._has_reply else self.system).append(text)

    def turns(self) -> list[dict[str, Any]]:
        """All messages but those in front."""
        self._end_round()
        return self._turns

    def _end_round(self) -> None:
        """Put what the user has said since the last reply behind what the system has."""
        if self._news:
            self._turns.append({"role": "system", "content": "\n\n".join(self._news)})
        self._turns += self._asked
        self._news, self._asked = [], []


def _check_keys(message: Mapping[str, Any], place: str) -> None:
    """Refuse what the model would not get to see, such as images."""
    for key, value in message.items():
        if value and key not in _KEYS and key not in _WITHOUT_USE:
            allowed = ", ".join(sorted(_KEYS))
            what = f"{place} has {shown(key)}, which a Llama would not read; allowed: {allowed}"
            raise refused(place, what)


def _turn(message: Mapping[str, Any], role: str, place: str) -> dict[str, Any]:
    """A message with what belongs to its role: calls of the assistant, whose result a tool's is."""
    if role == "assistant":
        return _reply(message, place)
    content = message.get("content")
    if role == "user":
        return {"role": role, "content": _text(content, place)}
    turn = {"role": role, "content": _text(_shown_result(content), place)}
    name = message.get("name") or message.get("tool_name")
    given = {"tool_call_id": message.get("tool_call_id"), "name": name}
    return {**turn, **{key: value for key, value in given.items() if value is not None}}


def _shown_result(content: object) -> object:
    """What a tool gave. In the place of a picture and the like the model reads that there is one:
    an agent would send it again and again, and nobody could take it back.
    """
    if not isinstance(content, list) or not content:
        return _or_nothing(content)
    return [_as_words(part) for part in content]


def _as_words(part: object) -> object:
    kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
    if kind == "text" or not isinstance(kind, str):
        return part
    return {"type": "text", "text": f"[{kind[:40]} left out: this model reads text alone]"}


def _reply(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A message of the assistant; beside calls, and where it refused, clients write no content."""
    content = _or_nothing(message.get("content")) or message.get("refusal") or ""
    parted, content = _parted_thinking(content, place)
    if isinstance(content, list):
        content = [_as_text_part(part) for part in content]
    calls, cut = _without_cut_calls(message.get("tool_calls"))
    text = "\n".join(filter(None, [_text(content, place), *cut]))
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    thoughts = [message.get(key) for key in _REASONING_KEYS]
    thought = next((each for each in thoughts if isinstance(each, str) and each), parted)
    if thought:
        turn["reasoning"] = thought
    return {**turn, "tool_calls": calls} if calls else turn


def _is_empty_reply(turn: Mapping[str, Any]) -> bool:
    is_said = turn["content"].strip() or turn.get("tool_calls")
    return turn["role"] == "assistant" and not is_said


def _or_nothing(content: object) -> object:
    """A content, which is no text where a client has none to give."""
    return "" if content is None or content == [] else content


def _as_text_part(part: object) -> object:
    """A part that says why nothing is said, as text; every other as it is."""
    if isinstance(part, Mapping) and part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return part


def _without_cut_calls(calls: object) -> tuple[object, list[str]]:
    """The calls, and as text those whose arguments a limit has cut, so that they are no JSON.

    Clients put them together from a stream and send them back with the conversation.
    """
    if not isinstance(calls, list):
        return calls, []
    cut = [_cut_call(call) for call in calls]
    whole = [call for call, text in zip(calls, cut, strict=True) if text is None]
    return whole, [text for text in cut if text is not None]


def _cut_call(call: object) -> str | None:
    """A call with such arguments as the model began it; None for any other."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return None
    name, arguments = function.get("name"), function.get("arguments")
    if not (isinstance(name, str) and isinstance(arguments, str) and arguments.strip()):
        return None
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return f'{{"name": {json.dumps(name)}, "arguments": {arguments}'
    return None


def _text(content: object, place: str) -> str:
    with _errors_at(place):
        return content_text(content)


def _parted_thinking(content: object, place: str) -> tuple[str, object]:
    with _errors_at(place):
        return parted_thinking(content)


@contextmanager
def _errors_at(place: str) -> Iterator[None]:
    """Refuse what is no content, and say where it stands."""
    try:
        yield
    except InvalidOptionError as error:
        raise refused(place, f"{place}: {error.what}") from None
