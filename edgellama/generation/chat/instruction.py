"""The prompt of a chat, with words that tell the model the form of its answer.

They stand in the system prompt, so that they are computed once for all chats with the same form. If
a template has no system prompt, they stand before the user's first message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgellama.generation.chat.messages import Message, is_role
from edgellama.quant.errors import TemplateError
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.chat_tokens import encode_chat

if TYPE_CHECKING:
    from edgellama.generation.text_request import Request
    from edgellama.text.tokenizer import Tokenizer


def instruction(request: Request) -> str:
    """What a chat tells the model of the form that a request asks for; "" for nothing."""
    if request.answer is None or not request.show_schema:
        return ""
    return request.answer.instruction


def encode_instructed(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    words: str,
    **variables: Any,
) -> list[int]:
    """The prompt as tokens, ``words`` included; TemplateError as ``encode_chat`` raises it.

    ``variables`` are more of its arguments by name.
    """

    def encoded(messages: Sequence[Message]) -> list[int]:
        return encode_chat(tokenizer, template, messages, **variables)

    if not words:
        return encoded(messages)
    first, *others = messages
    if is_role(first, "system"):
        return encoded([_joined(first, first["content"], words), *others])
    system: Message = {"role": "system", "content": words}
    try:
        return encoded([system, *messages])
    except TemplateError:
        return encoded([_joined(first, words, first["content"]), *others])


def _joined(message: Message, *parts: str) -> Message:
    """The message with another content, a paragraph for each part that is not empty."""
    return {"role": message["role"], "content": "\n\n".join(part for part in parts if part)}
