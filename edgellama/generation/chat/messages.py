"""Messages of a conversation: their form, checked wherever they come from.

A content given in parts becomes one text, and arguments of calls become objects. ``chat_template``
and ``edgellama.tools`` know how a template shows messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from edgellama.generation.results import Generation
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.tools.tool import checked_calls

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_FORM = f"a role of {', '.join(ROLES)} (system first) and a content of text or text parts"
REASONING = "reasoning"
"""The key of what an assistant's message was thought before."""
_REASONING_NAMES = (REASONING, "reasoning_content", "thinking")
"""What clients of several protocols call it."""
_ALIASES = {"ipython": "tool"}
"""What Llama 3.1 calls the role of results."""
Content: TypeAlias = str | Sequence[Mapping[str, object]]
"""Text, or its parts as OpenAI's clients write them: ``[{"type": "text", "text": "hello"}]``."""


class _Said(TypedDict):
    role: str
    content: str


class Message(_Said, total=False):
    """One message: ``role`` is "system", "user", "assistant" or "tool", ``content`` its text.

    An assistant's may have ``tool_calls``, as ``ToolCall.as_openai`` writes them, and in
    ``reasoning`` what the model thought before. A tool's content is what the call returned whose
    id is ``tool_call_id``; ``name`` is the tool's.
    """

    tool_calls: list[dict[str, Any]]
    tool_call_id: str
    name: str
    reasoning: str


def checked_messages(
    messages: Sequence[Mapping[str, object]], where: str = "", *, later_system: bool = False
) -> list[Message]:
    """Copies of the messages, each content as one text.

    InvalidOptionError, with ``where`` before its text, for what is no message, for an unknown
    role, and without ``later_system`` for a system message that is not the first.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidOptionError(
            f"{where}messages are {shown(messages)}; allowed: a list of messages"
        )
    return [
        _checked(number, message, where, number == 0 or later_system)
        for number, message in enumerate(messages)
    ]


def content_text(content: object) -> str:
    """A content as one text: parts on lines of their own, as llama.cpp and vLLM join them.

    InvalidOptionError for anything but text and text parts.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, (bytes, bytearray)) and content:
        return "\n".join(_part_text(part) for part in content)
    raise InvalidOptionError(
        f"the content of a message is {_short_text(content)}; allowed: text, or text parts such as "
        '[{"type": "text", "text": "hello"}]'
    )


def parted_thinking(content: object) -> tuple[str, object]:
    """The thinking among a reply's parts, as Mistral's clients write it, and its other content.

    InvalidOptionError for thinking that is no text.
    """
    if isinstance(content, (str, bytes, bytearray)) or not isinstance(content, Sequence):
        return "", content
    thoughts = [part for part in content if _is_thought(part)]
    others = [part for part in content if not _is_thought(part)]
    if not thoughts:
        return "", content
    return "\n\n".join(content_text(part["thinking"]) for part in thoughts), others or ""


def reply_message(result: Generation) -> Message:
    """The assistant's message that a generated text becomes: thinking, text, calls of tools."""
    reply: Message = {"role": "assistant", "content": result.text}
    if result.reasoning:
        reply["reasoning"] = result.reasoning
    if result.tool_calls:
        reply["tool_calls"] = [call.as_openai() for call in result.tool_calls]
    return reply


def is_role(message: object, role: str) -> bool:
    """Whether a message, perhaps a malformed one, says that it is of this role."""
    return isinstance(message, Mapping) and message.get("role") == role


def _is_thought(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "thinking" and "thinking" in part


def _part_text(part: object) -> str:
    if isinstance(part, Mapping):
        kind, text = part.get("type", "text"), part.get("text")
        if kind == "text" and isinstance(text, str):
            return text
        if kind != "text":
            raise InvalidOptionError(
                f"a part of the message has the type {shown(kind)}; allowed: 'text', since a "
                "Llama reads text alone"
            )
    raise InvalidOptionError(
        f"a part of the message is {_short_text(part)}; allowed: parts such as "
        '{"type": "text", "text": "hello"}'
    )


def _checked(number: int, message: object, where: str, may_be_system: bool) -> Message:
    if isinstance(message, Mapping):
        role = _ALIASES.get(str(message.get("role")), message.get("role"))
        is_in_place = role != "system" or may_be_system
        calls = message.get("tool_calls") if role == "assistant" else None
        has_content = message.get("content") is not None or bool(calls)
        if role in ROLES and is_in_place and has_content:
            try:
                return _message(str(role), message, calls)
            except InvalidOptionError as error:
                raise InvalidOptionError(f"{where}message {number}: {error}") from None
    raise InvalidOptionError(f"{where}message {number} is {message!r:.80}; allowed: {MESSAGE_FORM}")


def _message(role: str, given: Mapping[str, object], calls: object) -> Message:
    content, parted = given.get("content"), ""
    if role == "assistant":
        parted, content = parted_thinking(content)
    # Clients write no content, or an empty list of parts, beside calls.
    text = "" if calls and not content else content_text(content)
    message: Message = {"role": role, "content": text}
    if calls:
        message["tool_calls"] = [call.as_openai() for call in checked_calls(calls)]
    if role == "assistant":
        thoughts = (given[name] for name in _REASONING_NAMES if given.get(name))
        thought = next(thoughts, parted or None)
        if isinstance(thought, str):
            message["reasoning"] = thought
        elif thought is not None:
            raise InvalidOptionError(f"reasoning is {_short_text(thought)}; allowed: text")
    if role == "tool":
        for key in ("tool_call_id", "name"):
            value = given.get(key)
            if isinstance(value, str):
                message[key] = value
            elif value is not None:
                raise InvalidOptionError(f"{key} is {_short_text(value)}; allowed: text")
    return message


def _short_text(value: object) -> str:
    return shown(value) if isinstance(value, (str, bytes)) or value is None else repr(value)[:80]
