"""A conversation's messages as prompts: as many as fit, and one that the user is still typing.

It has the template, the options of all replies, and the rule for a full context. ``conversation``
handles replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from edgellama.generation.argument_types import WhenFull
from edgellama.generation.arguments import check_may_fit
from edgellama.generation.chat.chat_format import ChatFormat, ReplyRequest
from edgellama.generation.chat.conversation_record import ConversationRecord
from edgellama.generation.chat.fitting import check_when_full, first_kept
from edgellama.generation.chat.messages import (
    Content,
    Message,
    checked_messages,
    content_text,
    is_role,
)
from edgellama.generation.chat.turns import PromptTokens, as_computed
from edgellama.generation.sessions.async_stream import AsyncStream
from edgellama.generation.sessions.session import Session
from edgellama.generation.sessions.stream import Stream
from edgellama.generation.text_options import ChatOptions, layered_options
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.typing_backports import Unpack
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.tokenizer import Tokenizer

COMPLETION_TOKENS = 16
"""Of a suggestion, where nobody says how long it may be."""
PLACEHOLDER = "a"
"""Stands for a message of which nothing is there yet, since templates may refuse an empty one."""


class ShownMessages(NamedTuple):
    """Messages that the model is shown, how many of the oldest it is not, and their prompt."""

    messages: Sequence[Message]
    num_dropped: int
    prompt: PromptTokens


class ConversationPrompts(ConversationRecord):
    """Messages with the template that makes prompts of them, and the options of replies."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        system: str | None,
        messages: Sequence[Mapping[str, object]] | None,
        when_full: WhenFull,
        options: ChatOptions,
    ) -> None:
        """InvalidOptionError for malformed messages and options, and for two system prompts."""
        check_when_full(when_full)
        self._when_full = when_full
        super().__init__(session, tokenizer, system=system, messages=messages)
        self._format = ChatFormat(tokenizer, template)
        self._options = options
        # Bad options are reported here, not at the first reply.
        self._reply_request({})

    @property
    def template(self) -> ChatTemplate:
        """The template that turns messages into prompts."""
        return self._format.template

    @property
    def options(self) -> ChatOptions:
        """The options that hold for every reply; assign others, which are checked."""
        return self._options.copy()

    @options.setter
    def options(self, options: ChatOptions) -> None:
        if not isinstance(options, Mapping):
            raise InvalidOptionError(f"options is {shown(options)}; allowed: options by name")
        self._reply_request({}, options)
        self._options = options.copy()

    def preload_prompt(self, text: Content = "") -> Stream:
        """Compute the prompt of the next reply while the user is still typing.

        The stream yields no chunk; calling its ``wait`` in a thread of yours computes. The next
        call of this conversation ends it and uses what was computed.

        Arguments:
            text: What the user has typed so far. The default is nothing yet.

        Returns:
            A stream whose result has no text, and says how many tokens were computed.

        Raises:
            InvalidOptionError: A message of another type.
            TemplateError: The template refuses these messages.
            EdgellamaError: A reply runs, or the conversation is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama, llama.chat() as chat:
            ...     preloaded = chat.preload_prompt("What is the capital").wait()
            ...     reply = chat.send("What is the capital of Italy?", max_tokens=1)
            >>> reply.usage.cached_tokens >= preloaded.prompt_tokens - 1
            True
        """
        self._check_idle()
        # What is typed next may change the last token of what is there.
        asked = self._reply_request({"max_tokens": 0})
        tokens = self._unfinished(asked, content_text(text) or PLACEHOLDER)
        prompt = (tokens[:-1] or tokens)[: self._session.context_length] or tokens
        self._preload = self._session.start(replace(asked.request, prompt=prompt))
        return self._preload

    def complete_prompt(self, text: Content, **options: Unpack[ChatOptions]) -> Stream:
        """Suggest how a message that the user has not finished may continue.

        Nothing is added to ``messages``.

        Arguments:
            text: What the user has typed so far; not empty.
            options: ChatOptions; those of the conversation do not apply. ``max_tokens`` is 16 if it
                is not given.

        Returns:
            An iterator of chunks, and a context manager. At the end, ``result`` is the whole text.

        Raises:
            EdgellamaError: A reply runs, or the conversation is closed. The others are those of
                ``stream``.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama, llama.chat() as chat:
            ...     rest = chat.complete_prompt("What is the capital of", temperature=0).wait()
            ...     len(rest.tokens) <= 16, chat.messages
            (True, [])
        """
        self._check_idle()
        given: ChatOptions = {"max_tokens": COMPLETION_TOKENS, "show_schema": False, **options}
        asked = self._reply_request(given, {})
        tokens = self._unfinished(asked, content_text(text))
        return self._session.start(replace(asked.request, prompt=tokens, continuation=True))

    def preload_prompt_async(self, text: Content = "") -> AsyncStream:
        """``preload_prompt`` for event loops; the first await raises what is wrong with the call.

        Example: see AsyncStream.
        """
        return AsyncStream(lambda: self.preload_prompt(text))

    def complete_prompt_async(self, text: Content, **options: Unpack[ChatOptions]) -> AsyncStream:
        """``complete_prompt`` for event loops; the first await raises what is wrong with the call.

        Example: see AsyncStream.
        """
        return AsyncStream(lambda: self.complete_prompt(text, **options))

    def _shown_messages(self, asked: ReplyRequest, messages: Sequence[Message]) -> ShownMessages:
        """What the model is shown of messages: all, or what is left of them in a full context."""
        messages = checked_messages(messages)
        num_system = int(is_role(messages[0], "system"))
        system, turns = messages[:num_system], messages[num_system:]
        context_length = self._session.context_length

        @cache
        def shown(num_dropped: int) -> ShownMessages:
            kept = [*system, *turns[num_dropped:]]
            return ShownMessages(kept, num_dropped, self._prompt(asked, kept))

        if self._when_full != "stop":
            check_may_fit(self._tokenizer, messages[-1]["content"].strip(), context_length)
        if self._when_full != "drop":
            return shown(0)
        num_dropped = first_kept(
            turns,
            self._transcript.dropped_messages,
            context_length,
            asked.request.max_tokens,
            lambda first: len(shown(first).prompt.computed),
        )
        return shown(num_dropped)

    def _prompt(self, asked: ReplyRequest, messages: Sequence[Message]) -> PromptTokens:
        written = self._format.prompt(asked, messages)
        return PromptTokens(
            written, as_computed(self._tokenizer, written, self._transcript.last_turn)
        )

    def _reply_request(
        self, options: ChatOptions, defaults: ChatOptions | None = None
    ) -> ReplyRequest:
        """A reply's options over the conversation's own, or over ``defaults``."""
        given = layered_options(self._options if defaults is None else defaults, options)
        return self._format.reply_request(given)

    def _unfinished(self, asked_for: ReplyRequest, text: str) -> Sequence[int]:
        """The prompt up to the end of a user's message that is not finished."""
        asked: Message = {"role": "user", "content": text}
        messages = checked_messages([*self.messages, asked])
        first = self._transcript.num_system
        del messages[first : first + self._transcript.dropped_messages]
        unfinished = replace(asked_for, request=replace(asked_for.request, continuation=True))
        return self._prompt(unfinished, messages).computed
