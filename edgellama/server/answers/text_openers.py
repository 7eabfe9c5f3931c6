"""How a text begins: as a reply to messages, or as what follows a prompt.

The threads of an answer run it. If the last message is the assistant's, the reply continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from edgellama.generation.arguments import check_may_fit, check_messages_may_fit
from edgellama.generation.chat.chat_format import ChatFormat
from edgellama.generation.chat.messages import checked_messages
from edgellama.generation.text_options import layered_options
from edgellama.sampling.presets import chat_sampling
from edgellama.server.fields.chat_messages import system_in_front

if TYPE_CHECKING:
    from edgellama.generation.sessions.stream import Stream
    from edgellama.generation.text_request import Request
    from edgellama.llama import Llama
    from edgellama.text.chat_template import ChatTemplate

Messages = Sequence[Mapping[str, Any]]
OpenStream: TypeAlias = "Callable[[Llama, int, ExitStack], Stream]"
"""What starts the text of a number, as answers take it."""


def open_chat(
    messages: Messages,
    options: Mapping[str, Any],
    *,
    template: str = "",
    context: Sequence[int] = (),
    prompt: list[int] | None = None,
) -> OpenStream:
    """What starts a reply to messages.

    ``template``: in place of the model's own. ``context``: tokens that were said before them.
    ``prompt`` is filled with the prompt's tokens.
    """

    def start(llama: Llama, index: int, stack: ExitStack) -> Stream:
        request = chat_request(llama, messages, _of_text(options, index), template)
        if context:
            tokens = _without_bos(request.prompt, llama)
            request = replace(request, prompt=[*context, *tokens])
        if prompt is not None:
            prompt[:] = request.prompt
        return stack.enter_context(llama.session()).start(request)

    return start


def chat_request(
    llama: Llama, messages: Messages, options: Mapping[str, Any], template: str = ""
) -> Request:
    """The request of a reply to messages; their prompt may be longer than the context.

    A last message that alone is longer by far is a ContextLengthError.
    """
    check_messages_may_fit(messages, llama.context_length)
    check_may_fit(llama.tokenizer, messages[-1]["content"].strip(), llama.context_length)
    with llama.chat(template=template or None) as chat:
        chat_format = ChatFormat(llama.tokenizer, chat.template)
    is_begun = messages[-1]["role"] == "assistant"
    given = layered_options(chat_sampling(llama.metadata), options)
    asked = chat_format.reply_request(given, continues=is_begun)
    has_later_system = any(message["role"] == "system" for message in messages[1:])
    if has_later_system and not _shows_later_system(chat_format.template):
        messages = system_in_front(messages)
    return chat_format.request(asked, checked_messages(messages, later_system=True))


def _shows_later_system(template: ChatTemplate) -> bool:
    """Whether the template does, and the one for chats with tools if there is one."""
    of_tools = template.tool_use
    return template.shows_later_system and (of_tools is None or of_tools.shows_later_system)


def open_prompt(prompt: str | Sequence[int], options: Mapping[str, Any]) -> OpenStream:
    """What starts a text that follows a prompt."""

    def start(llama: Llama, index: int, stack: ExitStack) -> Stream:
        session = stack.enter_context(llama.session())
        return session.stream(prompt, **_of_text(options, index))

    return start


def _without_bos(tokens: Sequence[int], llama: Llama) -> Sequence[int]:
    """The tokens as they go on with others."""
    special = llama.tokenizer.special
    has_bos = special.add_bos and list(tokens[:1]) == [special.bos_id]
    return tokens[1:] if has_bos else tokens


def _of_text(options: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Options of the text of a number: a seed of its own."""
    own = dict(options)
    if index and isinstance(own.get("seed"), int):
        own["seed"] += index
    return own
