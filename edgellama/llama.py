"""The facade: one model file, ready to generate, stream and chat.

It joins the file, the tokenizer, the engine and sessions; each of them can be used alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import edgellama
from edgellama.generation.argument_types import WhenFull
from edgellama.generation.results import Chunk, Generation, Statistics
from edgellama.generation.sessions.session import Session
from edgellama.generation.sessions.stream import Stream
from edgellama.generation.text_options import (
    CHAT_OPTION_NAMES,
    ChatOptions,
    PromptOptions,
    TextOptions,
)
from edgellama.judging_model import JudgingModel
from edgellama.quant.typing_backports import Unpack
from edgellama.sampling.options import check_option_names
from edgellama.sampling.presets import chat_sampling, merged_options

CHAT_PARAMETERS = ("system", "messages", "template", "when_full")

__all__ = ["Chunk", "Generation", "Llama", "Session", "Statistics", "Stream"]


class Llama(JudgingModel):
    """A model, loaded once and shared by any number of sessions and threads.

    A context manager; closing it ends all of its sessions. The weights are pages of the file.
    Replace that file only by renaming another into its place: if it is rewritten or cut in place,
    the process computes with other weights, or ends with SIGBUS. At level DEBUG, the logger
    "edgellama" reports what loading did.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     result = llama.generate("The capital of France is", max_tokens=2, temperature=0)
        >>> result.text
        ' Paris.'
    """

    def generate(
        self,
        prompt: str | Sequence[int],
        **options: Unpack[PromptOptions],
    ) -> Generation:
        """Continue a text in a session of its own, and wait for the end.

        Arguments:
            prompt: A text, which gets a BOS if the model wants one, or token ids, used as they are.
            options: PromptOptions: ``max_tokens``, ``stop``, ``adapters``, ``parse_special`` and
                the fields of SamplingOptions.

        Returns:
            The text and its tokens, the reason why it ended, counts and times.

        Raises:
            ContextLengthError: The prompt has more tokens than the context holds.
            InvalidOptionError: An argument of another type or outside its range.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     result = llama.generate("One, two,", max_tokens=2, temperature=0, stop=".")
            >>> result.finish_reason
            'length'
        """
        return self.stream(prompt, **options).wait()

    def stream(
        self,
        prompt: str | Sequence[int],
        **options: Unpack[PromptOptions],
    ) -> Stream:
        """Continue a text in a session of its own, piece by piece.

        Arguments:
            prompt: A text, which gets a BOS if the model wants one, or token ids, used as they are.
            options: PromptOptions: ``max_tokens``, ``stop``, ``adapters``, ``parse_special`` and
                the fields of SamplingOptions.

        Returns:
            An iterator of chunks, which are computed as you ask for them. ``cancel`` ends it from
            any thread, and so does leaving its ``with`` block. ``result`` then is the whole text.

        Raises:
            ContextLengthError: The prompt has more tokens than the context holds.
            InvalidOptionError: An argument of another type or outside its range.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     with llama.stream("Once upon a time", max_tokens=3, seed=1) as stream:
            ...         texts = [chunk.text for chunk in stream]
            >>> "".join(texts) == stream.result.text
            True
        """
        return self.session().stream(prompt, **options)

    def fill(
        self,
        prefix: str,
        suffix: str,
        *,
        suffix_first: bool = False,
        **options: Unpack[TextOptions],
    ) -> Generation:
        """Write the text between a prefix and a suffix, and wait for the end.

        For models that were trained to fill gaps, such as Code Llama 7B and 13B. ``stream``,
        ``generate_batch`` and sessions do it with ``suffix=``.

        Arguments:
            prefix: The text before the gap; may be empty.
            suffix: The text behind it; may be empty.
            suffix_first: Show the model the suffix before the prefix. False by default. Ignored for
                models that know only one order.
            options: TextOptions.

        Returns:
            The text that fills the gap, as ``generate`` gives it.

        Raises:
            UnsupportedModelError: The model has no tokens for infilling.
            ContextLengthError: Both together have more tokens than the context holds.
            InvalidOptionError: An argument of another type or outside its range.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("code-llama-7b.gguf") as llama:  # doctest: +SKIP
            ...     llama.fill("def add(a, b):\\n", "\\n\\nprint(add(1, 2))").text
        """
        return self.generate(prefix, suffix=suffix, suffix_first=suffix_first, **options)

    async def fill_async(
        self,
        prefix: str,
        suffix: str,
        *,
        suffix_first: bool = False,
        **options: Unpack[TextOptions],
    ) -> Generation:
        """``fill`` for event loops; cancelling the task ends it within one operation.

        Example: see ``generate_async``.
        """
        return await self.generate_async(
            prefix, suffix=suffix, suffix_first=suffix_first, **options
        )

    async def generate_async(
        self, prompt: str | Sequence[int], **options: Unpack[PromptOptions]
    ) -> Generation:
        """``generate`` for event loops; cancelling the task ends it within one operation.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     result = asyncio.run(llama.generate_async("One, two,", max_tokens=2))
            >>> result.finish_reason
            'length'
        """
        return await self.stream_async(prompt, **options).wait()

    def stream_async(
        self, prompt: str | Sequence[int], **options: Unpack[PromptOptions]
    ) -> edgellama.AsyncStream:
        """``stream`` for event loops; what is wrong with the call is raised by the first await.

        Example: see AsyncStream.
        """
        from edgellama.generation.sessions.async_stream import AsyncStream

        return AsyncStream(lambda: self.stream(prompt, **options))

    def chat(
        self,
        system: str | None = None,
        *,
        messages: Sequence[Mapping[str, object]] | None = None,
        template: str | None = None,
        when_full: WhenFull = "drop",
        **options: Unpack[ChatOptions],
    ) -> edgellama.Conversation:
        """A new conversation in the model's own chat format, with its own session.

        Arguments:
            system: System prompt, before all messages. None (the default) means none, or the one at
                the beginning of ``messages``.
            messages: The conversation so far, as dictionaries with ``role`` ("system", "user" or
                "assistant") and ``content`` (text, or text parts). If the last message is the
                user's, ``regenerate`` answers it. None (the default) starts a new conversation.
            template: A chat format to use instead of the file's: the name of a published one
                ("llama2", "llama3", "chatml", "mistral", "zephyr", "alpaca", "vicuna", "wizardlm",
                "koala", "openassistant", "guanaco") or Jinja source. None (the default) is the
                file's.
            when_full: What to do when the messages fill the context: "drop" (the default) leaves
                out the oldest turns, "stop" gives empty replies, "error" raises ContextLengthError.
            options: ChatOptions for every reply, such as ``tools``, and ``adapters`` for the
                session. The defaults of sampling are those that the file recommends
                (``sampling_defaults``). If it recommends none, a repetition penalty of 1.1 and DRY
                keep small models from looping; SmolLM2 also gets what its authors recommend, a
                temperature of 0.2 and a top_p of 0.9.

        Returns:
            The conversation, a context manager; closing it gives its memory back.

        Raises:
            UnsupportedModelError: The file has no template and none is given.
            InvalidOptionError: Malformed messages, two system prompts, options out of range, a
                ``template`` that is no known name. Jinja source that does not compile is a
                TemplateError of the first reply.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     with llama.chat("Answer in one word.", temperature=0, max_tokens=8) as chat:
            ...         reply = chat.send("What is the capital of Italy?")
            ...         roles = [message["role"] for message in chat.messages]
            >>> roles
            ['system', 'user', 'assistant']
        """
        from edgellama.generation.chat.conversation import Conversation

        check_option_names(options, CHAT_OPTION_NAMES, CHAT_PARAMETERS)
        defaults = chat_sampling(self.metadata)
        options = cast("ChatOptions", merged_options(defaults, options))
        chosen = self._chat_template(template)
        adapters = options.pop("adapters", None)
        return Conversation(
            self.session(adapters=adapters),
            self.tokenizer,
            chosen,
            system=system,
            messages=messages,
            when_full=when_full,
            **options,
        )
