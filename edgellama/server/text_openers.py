"""How texts begin: a reply to messages, or what follows a prompt; run by an answer's threads.

A reply that a client has begun itself (the last message is the assistant's) is gone on with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from edgellama.generation.text_options import text_request
from edgellama.sampling.options import CHAT_SAMPLING, merged_options
from edgellama.server.answers import OpenText
from edgellama.text.chat_template import ChatTemplate, encode_chat

if TYPE_CHECKING:
    from edgellama.generation.stream import Stream
    from edgellama.llama import Llama

Messages = Sequence[Mapping[str, Any]]


def open_chat(
    messages: Messages,
    options: Mapping[str, Any],
    *,
    context: Sequence[int] = (),
    prompt: list[int] | None = None,
) -> OpenText:
    """What starts a reply to messages.

    ``context``: tokens that were said before them. ``prompt`` is filled with the prompt's tokens.
    """
    is_begun = messages[-1]["role"] == "assistant"

    def start(llama: Llama, index: int, stack: ExitStack) -> Stream:
        own = _of_text(options, index)
        if not (is_begun or context):
            chat = stack.enter_context(llama.chat(messages=messages, when_full="error", **own))
            stream = chat.regenerate()
            if prompt is not None:
                prompt[:] = stream.prompt
            return stream
        tokens = chat_tokens(llama, messages)
        if context:
            tokens = [*context, *_without_bos(tokens, llama)]
        if prompt is not None:
            prompt[:] = tokens
        own = merged_options(llama.sampling_defaults or CHAT_SAMPLING, own)
        stop = _template(llama).stop
        request = text_request(tokens, own, stop=stop, continuation=is_begun)
        return stack.enter_context(llama.session()).start(request)

    return start


def chat_tokens(llama: Llama, messages: Messages) -> list[int]:
    """The prompt that messages become, with the beginning of a reply if they end with one."""
    is_begun = messages[-1]["role"] == "assistant"
    asked = messages[:-1] if is_begun else messages
    tokens = encode_chat(llama.tokenizer, _template(llama), asked)
    if is_begun:
        tokens += llama.tokenizer.encode(messages[-1]["content"], add_bos=False)
    return tokens


def _template(llama: Llama) -> ChatTemplate:
    with llama.chat() as chat:
        return chat.template


def open_prompt(prompt: str | Sequence[int], options: Mapping[str, Any]) -> OpenText:
    """What starts a text that follows a prompt."""

    def start(llama: Llama, index: int, stack: ExitStack) -> Stream:
        session = stack.enter_context(llama.session())
        return session.stream(prompt, **_of_text(options, index))

    return start


def _without_bos(tokens: list[int], llama: Llama) -> list[int]:
    """The tokens as they go on with others."""
    special = llama.tokenizer.special
    has_bos = special.add_bos and tokens[:1] == [special.bos_id]
    return tokens[1:] if has_bos else tokens


def _of_text(options: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Options of the text of a number: a seed of its own."""
    own = dict(options)
    if index and isinstance(own.get("seed"), int):
        own["seed"] += index
    return own
