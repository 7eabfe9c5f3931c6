"""A session: one KV cache over a shared engine, and the generations that use it.

It reuses the part of a prompt that the cache already holds, refuses prompts that do not fit, and
lets one generation run at a time. It knows tokens and plain text. Conversations handle messages,
and ``session_state`` keeps what is held between texts.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import edgellama
from edgellama.engine.pages.kv_types import KVTypeChoice
from edgellama.engine.pages.text_cache import TextCache
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.weights.adapter_set import AdapterSet
from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.arguments import check_may_fit, check_prompt
from edgellama.generation.concurrency.waiting_line import Turn, WaitingLine
from edgellama.generation.decoding.decoding import Decoding
from edgellama.generation.results import Generation
from edgellama.generation.sessions.living import Living
from edgellama.generation.sessions.session_state import SessionState
from edgellama.generation.sessions.stream import Stream
from edgellama.generation.speculation.speculation import Speculation
from edgellama.generation.text_options import PromptOptions
from edgellama.generation.text_request import Request, drafter_of, prompt_request
from edgellama.quant.typing_backports import Unpack
from edgellama.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Session(SessionState):
    """A sequence of tokens held in its own KV cache. A context manager.

    Several sessions of one engine may be used at once, each by one thread at a time.
    """

    def __init__(
        self,
        engine: TextEngine,
        tokenizer: Tokenizer,
        *,
        context_length: int | None = None,
        kv_type: KVTypeChoice = "f16",
        cache: TextCache | None = None,
        adapters: AdapterScales | AdapterSet | None = None,
        siblings: Living[Session] | None = None,
        line: WaitingLine | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """``context_length`` None is the model's own; ``kv_type`` as for ``Llama``.

        ``cache``: tokens to begin with, instead of an empty context. ``adapters``: as the
        property. ``siblings``: where forks are entered, so that closing the model finds them.
        ``line``: where its texts wait for their turn.
        ``speculation``: what guesses ahead; None: nobody.
        """
        super().__init__(
            engine,
            tokenizer,
            context_length=context_length,
            kv_type=kv_type,
            cache=cache,
            adapters=adapters,
        )
        self._line = WaitingLine() if line is None else line
        self._speculation = speculation
        self._siblings = Living[Session]() if siblings is None else siblings
        self._siblings.add(self)

    def generate(
        self,
        prompt: str | Sequence[int],
        **options: Unpack[PromptOptions],
    ) -> Generation:
        """Continue a text and wait for the end; what the session holds is not computed again.

        Arguments:
            prompt: A text, which gets a BOS if the model wants one, or token ids, used as they are.
            options: PromptOptions: ``max_tokens``, ``stop``, ``adapters``, ``parse_special`` and
                the fields of SamplingOptions.

        Returns:
            The text and its tokens, the reason why it ended, counts and times.

        Raises:
            ContextLengthError: The prompt has more tokens than the context holds.
            InvalidOptionError: An argument of another type or outside its range.
            EdgellamaError: Another stream of the session runs, or it is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama, llama.session(context_length=64) as session:
            ...     result = session.generate([1, 2, 3], max_tokens=4, temperature=0)
            ...     session.tokens[:3], len(result.tokens) <= 4
            ((1, 2, 3), True)
        """
        return self.stream(prompt, **options).wait()

    def stream(
        self,
        prompt: str | Sequence[int],
        **options: Unpack[PromptOptions],
    ) -> Stream:
        """Continue a text piece by piece; the session is in use until the stream ends.

        The beginning of the prompt that the cache already holds is not computed again.

        Arguments:
            prompt: A text, which gets a BOS if the model wants one, or token ids, used as they are.
            options: PromptOptions: ``max_tokens``, ``stop``, ``adapters``, ``parse_special`` and
                the fields of SamplingOptions.

        Returns:
            An iterator of chunks, and a context manager. At the end, ``result`` is the whole text.

        Raises:
            ContextLengthError: The prompt has more tokens than the context holds.
            InvalidOptionError: An argument of another type or outside its range.
            EdgellamaError: Another stream of the session runs, or it is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama, llama.session(context_length=64) as session:
            ...     stream = session.stream("Once upon", max_tokens=2, temperature=0)
            ...     [chunk.token is not None for chunk in stream], session.busy
            ([True, True], False)
        """
        check_may_fit(self._tokenizer, prompt, self.context_length)
        return self.start(prompt_request(self._tokenizer, prompt, options))

    async def generate_async(
        self, prompt: str | Sequence[int], **options: Unpack[PromptOptions]
    ) -> Generation:
        """``generate`` for event loops, see AsyncStream.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama, llama.session(context_length=64) as session:
            ...     result = asyncio.run(session.generate_async([1, 2, 3], max_tokens=4))
            >>> result.prompt_tokens
            3
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

    def start(
        self, request: Request, *, on_end: Callable[[Generation], None] | None = None
    ) -> Stream:
        """The stream of a request; ``on_end`` gets its result before the stream's user does."""
        cancel = CancelToken()
        self._end_cancelled()
        with self._lock:
            self._check_free()
            check_prompt(request.prompt, self.context_length, self._engine.config.vocab_size)
            if request.adapters is None:
                request = replace(request, adapters=self._adapters)
            drafter = drafter_of(
                self._speculation, self._tokenizer, request, self.context_length, cancel
            )
            decoding = Decoding(
                self._engine, self._tokenizer, self._cache, request, cancel, drafter
            )
            stream = Stream(
                decoding,
                cancel,
                on_end,
                owner=self,
                turn=Turn(self._line),
                timeout=request.timeout,
                prompt=request.prompt,
                gives_way=self._engine.low_priority,
            )
            self._last = weakref.ref(stream)
        return stream

    def fork(self) -> Session:
        """Make another session with the same tokens, at once and without copying their memory.

        Both share keys and values until one of them continues. EdgellamaError while a stream runs
        and after close().
        """
        return Session(
            self._engine,
            self._tokenizer,
            cache=self._while_free(self._cache.fork),
            adapters=self._adapters,
            siblings=self._siblings,
            line=self._line,
            speculation=self._speculation,
        )
