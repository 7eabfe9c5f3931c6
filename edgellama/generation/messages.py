"""Messages of a conversation: their form, checked wherever they come from.

Texts in, texts kept: a content given in parts becomes one text. What a template makes of
messages is left to chat_template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError

ROLES = ("system", "user", "assistant")
MESSAGE_FORM = f"a role of {', '.join(ROLES)} (system first) and a content of text or text parts"
Content: TypeAlias = "str | Sequence[Mapping[str, object]]"
"""Text, or its parts as OpenAI's clients write them: ``[{"type": "text", "text": "hello"}]``."""


class Message(TypedDict):
    """One message: ``role`` is "system", "user" or "assistant", ``content`` its text."""

    role: str
    content: str


def checked_messages(messages: Sequence[Mapping[str, object]], where: str = "") -> list[Message]:
    """Copies of the messages, each content as one text.

    InvalidOptionError, with ``where`` before its text, for what is no message, for an unknown
    role, and for a system message that is not the first.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidOptionError(
            f"{where}messages are {shown(messages)}; allowed: a list of messages"
        )
    return [_checked(number, message, where) for number, message in enumerate(messages)]


def content_text(content: object) -> str:
    """A content as one text: parts on lines of their own, as llama.cpp and vLLM join them.

    InvalidOptionError for anything but text and text parts.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, (bytes, bytearray)) and content:
        return "\n".join(_part_text(part) for part in content)
    raise InvalidOptionError(
        f"the content of a message is {_named(content)}; allowed: text, or text parts such as "
        '[{"type": "text", "text": "hello"}]'
    )


def is_role(message: object, role: str) -> bool:
    """Whether a message, perhaps a malformed one, says that it is of this role."""
    return isinstance(message, Mapping) and message.get("role") == role


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
        f"a part of the message is {_named(part)}; allowed: parts such as "
        '{"type": "text", "text": "hello"}'
    )


def _checked(number: int, message: object, where: str) -> Message:
    if isinstance(message, Mapping):
        role = message.get("role")
        first_only = role != "system" or number == 0
        if role in ROLES and first_only and message.get("content") is not None:
            try:
                return {"role": str(role), "content": content_text(message["content"])}
            except InvalidOptionError as error:
                raise InvalidOptionError(f"{where}message {number}: {error}") from None
    raise InvalidOptionError(f"{where}message {number} is {message!r:.80}; allowed: {MESSAGE_FORM}")


def _named(value: object) -> str:
    return shown(value) if isinstance(value, (str, bytes)) or value is None else repr(value)[:80]
