"""A conversation: replies to messages in the model's own chat format, over one session.

It keeps messages and prompt tokens in step, so that a new turn computes only what is new.
``conversation_prompts`` turns messages into prompts, and the session generates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.argument_types import WhenFull
from edgellama.generation.chat.conversation_prompts import ConversationPrompts
from edgellama.generation.chat.fitting import NoReply
from edgellama.generation.chat.messages import Content, Message, content_text, reply_message
from edgellama.generation.chat.tool_rounds import DEFAULT_MAX_ROUNDS, OnCall, ToolRounds
from edgellama.generation.chat.turns import Turn
from edgellama.generation.results import Generation
from edgellama.generation.sessions.async_stream import AsyncStream
from edgellama.generation.sessions.session import Session
from edgellama.generation.sessions.stream import Stream
from edgellama.generation.text_options import ChatOptions
from edgellama.quant.typing_backports import Unpack
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.tokenizer import Tokenizer


class Conversation(ConversationPrompts):
    """A conversation: its messages, and the session that holds them. A context manager.

    ``Llama.chat`` makes one. Its options apply to every reply; a call may override them. Closing it
    closes the session.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     with llama.chat("Be brief.", max_tokens=8, temperature=0) as chat:
        ...         first = chat.send("What is a llama?")
        ...         chat.messages.pop()["role"], len(chat.messages)
        ('assistant', 2)
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        system: str | None = None,
        messages: Sequence[Mapping[str, object]] | None = None,
        when_full: WhenFull = "drop",
        **options: Unpack[ChatOptions],
    ) -> None:
        """Join a session, its tokenizer and a template; ``Llama.chat`` does it for you.

        Arguments:
            session: Holds the conversation's tokens, and is closed with it.
            tokenizer: The model's.
            template: How messages become a prompt.
            system: System prompt, before all messages. None (the default) is none.
            messages: What was said before. None (the default) is nothing.
            when_full: What happens once the messages leave no room for a reply. "drop" (the
                default): the oldest turns, but never the system prompt, go out of the prompt
                (they stay in ``messages``), and the result says how many. "stop": the reply is
                empty and its result ``context_full``. "error": ContextLengthError.
            options: ChatOptions, for every reply.

        Raises:
            InvalidOptionError: Malformed messages, two system prompts, options out of range.
        """
        super().__init__(
            session, tokenizer, template,
            system=system, messages=messages, when_full=when_full, options=options,
        )  # fmt: skip

    def send(self, text: Content, **options: Unpack[ChatOptions]) -> Generation:
        """Add the user's message, generate the reply, add it too, and return it.

        Arguments:
            text: The message: a string, or text parts such as ``[{"type": "text", "text":
                "hello"}]``, joined by line breaks.
            options: ChatOptions: ``max_tokens``, ``stop``, ``adapters`` and the fields of
                SamplingOptions. Each overrides the conversation's.

        Returns:
            The reply's text and tokens, the reason why it ended, counts and times.

        Raises:
            ContextLengthError: ``when_full`` is "error" and the conversation is longer than the
                context, or the message alone does not fit.
            InvalidOptionError: A message or an option of another type or outside its range.
            TemplateError: The template refuses these messages.
            EdgellamaError: Another reply runs, or the conversation is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama, llama.chat() as chat:
            ...     reply = chat.send("Say hello.", max_tokens=1, temperature=0)
            >>> reply.finish_reason
            'length'
        """
        return self.stream(text, **options).wait()

    def stream(self, text: Content, **options: Unpack[ChatOptions]) -> Stream:
        """Send the user's message, and get the reply piece by piece.

        Both messages are added when the stream ends, even by Ctrl-C or ``close``, if some text had
        come. An error of the engine adds nothing.

        Arguments:
            text: The message: a string, or text parts such as ``[{"type": "text", "text":
                "hello"}]``, joined by line breaks.
            options: ChatOptions: ``max_tokens``, ``stop``, ``adapters`` and the fields of
                SamplingOptions. Each overrides the conversation's.

        Returns:
            An iterator of chunks, and a context manager. At the end, ``result`` is the whole text.

        Raises:
            ContextLengthError: ``when_full`` is "error" and the conversation is longer than the
                context, or the message alone does not fit.
            InvalidOptionError: A message or an option of another type or outside its range.
            TemplateError: The template refuses these messages.
            EdgellamaError: Another reply runs, or the conversation is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama, llama.chat() as chat:
            ...     with chat.stream("Count to ten.", seed=1) as stream:
            ...         pieces = [next(stream).text for _ in range(3)]
            ...     chat.messages[-1]["content"] == "".join(pieces)
            True
        """
        self._check_idle()
        message: Message = {"role": "user", "content": content_text(text)}
        return self._reply(len(self.messages), [message], options)

    def regenerate(self, **options: Unpack[ChatOptions]) -> Stream:
        """Generate another reply to the user's last message, in place of the old one, if any.

        So it also answers ``messages`` that end with one of the user's.

        Arguments:
            options: ChatOptions: ``max_tokens``, ``stop``, ``adapters`` and the fields of
                SamplingOptions. Each overrides the conversation's.

        Returns:
            An iterator of chunks, and a context manager. At the end, ``result`` is the whole text.

        Raises:
            EdgellamaError: There is no message to answer, another reply runs, or the
                conversation is closed. The others are those of ``stream``.

        Example:
            >>> from edgellama import Llama
            >>> asked = [{"role": "user", "content": "Say hello."}]
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     with llama.chat(messages=asked, max_tokens=2, temperature=0) as chat:
            ...         reply = chat.regenerate().wait()
            ...         len(chat.messages)
            2
        """
        self._check_idle()
        return self._reply(self._transcript.num_asked(), [], options)

    def run(
        self,
        text: Content,
        *,
        max_rounds: int = DEFAULT_MAX_ROUNDS,
        on_call: OnCall | None = None,
        **options: Unpack[ChatOptions],
    ) -> Generation:
        """Add the user's message, run the tools that replies call, and return the last reply.

        Calls and their results become messages of the conversation. The model sees what a function
        returns, as text or as JSON, and also the errors it raises.

        Arguments:
            text: The message: a string, or text parts such as ``[{"type": "text", "text":
                "hello"}]``, joined by line breaks.
            max_rounds: How often to run tools and ask the model again, from 1. If the last reply
                still calls tools, they are not run, and the reply is returned as it is.
            on_call: Called as ``on_call(call, result)`` after each call. None (the default) calls
                nothing.
            options: ChatOptions that override the conversation's; ``tools`` must have functions. A
                ``tool_choice`` that forces a call applies to the first reply alone.

        Returns:
            The last reply.

        Raises:
            InvalidOptionError: There are no tools, one has no function, or another argument is
                of another type or outside its range.
            ConstraintError: A tool's schema cannot be kept to.
            ContextLengthError: ``when_full`` is "error" and the conversation is longer than the
                context, or the message alone does not fit.
            TemplateError: The template refuses these messages.
            EdgellamaError: Another reply runs, or the conversation is closed.

        Example:
            >>> from edgellama import ChatOptions, Llama
            >>> def add(a: int, b: int) -> int:
            ...     "Add two numbers."
            ...     return a + b
            >>> options: ChatOptions = {"tools": [add], "tool_choice": "add", "temperature": 0}
            >>> with Llama("smollm2", context_length=1024) as llama:
            ...     with llama.chat(**options) as chat:
            ...         reply = chat.run("What is 2 + 3?", max_tokens=40)
            ...         print(chat.messages[2]["content"])
            5
        """
        rounds = ToolRounds(self, options, max_rounds, on_call, may_await=False)
        return rounds.run(self.send(text, **rounds.first))

    async def run_async(
        self,
        text: Content,
        *,
        max_rounds: int = DEFAULT_MAX_ROUNDS,
        on_call: OnCall | None = None,
        **options: Unpack[ChatOptions],
    ) -> Generation:
        """``run`` for event loops; functions may be asynchronous, others are called in the loop.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> async def now() -> str:
            ...     "Tell the time."
            ...     return "noon"
            >>> with Llama("smollm2", context_length=1024) as llama:
            ...     with llama.chat(tools=[now], temperature=0, max_tokens=40) as chat:
            ...         reply = asyncio.run(chat.run_async("What time is it?", tool_choice="now"))
            ...         chat.messages[2]["content"]
            'noon'
        """
        rounds = ToolRounds(self, options, max_rounds, on_call, may_await=True)
        return await rounds.run_async(await self.send_async(text, **rounds.first))

    async def send_async(self, text: Content, **options: Unpack[ChatOptions]) -> Generation:
        """``send`` for event loops, see AsyncStream.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama, llama.chat() as chat:
            ...     reply = asyncio.run(chat.send_async("Say hello.", max_tokens=1))
            ...     len(chat.messages)
            2
        """
        return await self.stream_async(text, **options).wait()

    def stream_async(self, text: Content, **options: Unpack[ChatOptions]) -> AsyncStream:
        """``stream`` for event loops; what is wrong with the call is raised by the first await.

        Example: see AsyncStream.
        """
        return AsyncStream(lambda: self.stream(text, **options))

    def regenerate_async(self, **options: Unpack[ChatOptions]) -> AsyncStream:
        """``regenerate`` for event loops; the first await raises what is wrong with the call.

        Example: see AsyncStream.
        """
        return AsyncStream(lambda: self.regenerate(**options))

    def fork(self) -> Conversation:
        """Make another conversation that continues from the same messages, at once.

        Both keep the messages so far, and share their memory. EdgellamaError while a reply runs.
        """
        self._check_idle()
        fork = Conversation(
            self._session.fork(),
            self._tokenizer,
            self._format.template,
            when_full=self._when_full,
            **self._options,
        )
        fork._transcript = self._transcript.copy()
        return fork

    def __repr__(self) -> str:
        return f"<Conversation messages={len(self.messages)}, {self.session!r}>"

    def _reply(self, num_kept: int, asked: Sequence[Message], options: ChatOptions) -> Stream:
        """The reply to the first ``num_kept`` messages and what is asked after them."""
        wanted = self._reply_request(options)
        shown = self._shown_messages(wanted, [*self.messages[:num_kept], *asked])
        prompt, num_dropped = shown.prompt, shown.num_dropped
        num_tokens = len(prompt.computed)
        if self._when_full == "stop" and num_tokens > self._session.context_length:
            return Stream(NoReply(num_tokens), CancelToken(), owner=self._session)
        request = replace(
            self._format.completed(wanted, shown.messages, prompt.computed),
            dropped_messages=max(0, num_dropped - self._transcript.dropped_messages),
        )

        def end(result: Generation) -> None:
            is_answering = result.reasoning_tokens < len(result.tokens)
            has_answer = bool(result.text or result.tool_calls)
            is_cut_call = request.calls is not None and is_answering and not has_answer
            if result.tokens and not is_cut_call:
                text = result.text
                if result.tool_calls:  # the turn's text has them as the model wrote them
                    text = self._tokenizer.decode(result.tokens, continuation=True)
                turn, said = Turn(prompt, result.tokens, text), [*asked, reply_message(result)]
                self._transcript.add(num_kept, said, dropped_messages=num_dropped, turn=turn)

        return self._session.start(request, on_end=end)
