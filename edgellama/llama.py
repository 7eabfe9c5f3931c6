"""The facade: one model file, ready to generate, stream and chat.

It joins the file, the tokenizer, the engine and sessions; each of them can be used alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgellama.engine.hooks import HookPlace, RowFunction, RowHook
from edgellama.engine.idle_watch import IdleWatch, check_idle_seconds
from edgellama.engine.kv_types import KVTypeChoice
from edgellama.generation.async_items import AsyncItems, gathered
from edgellama.generation.async_stream import AsyncStream
from edgellama.generation.batch import DEFAULT_WIDTH, AsyncBatch, Batch, OnError
from edgellama.generation.batch_prompts import BatchPrompt, BatchPrompts
from edgellama.generation.conversation import Conversation
from edgellama.generation.embedding import (
    Embedder,
    Embedding,
    EmbedOptions,
    HowToEmbed,
    as_rows,
    as_texts,
)
from edgellama.generation.fitting import WhenFull
from edgellama.generation.in_order import InOrder, told
from edgellama.generation.moderation import Judging, Moderation, ModerationRequest
from edgellama.generation.reranking import (
    HowToRank,
    Ranked,
    RankPrompt,
    Reranker,
    RerankOptions,
    as_documents,
    best_first,
    checked_top_n,
)
from edgellama.generation.results import Chunk, Generation, Statistics
from edgellama.generation.scoring import (
    Classification,
    Classifier,
    Normalization,
    Score,
    check_normalization,
    classification,
    classifier,
    score_request,
)
from edgellama.generation.session import Session, check_prompt
from edgellama.generation.speculation.speculation import (
    Speculation,
    SpeculationMode,
    speculation_mode,
)
from edgellama.generation.stream import Stream
from edgellama.generation.text_options import (
    BatchOptions,
    ChatOptions,
    PromptOptions,
    TextOptions,
)
from edgellama.generation.waiting_line import WaitingLine
from edgellama.quant.errors import EdgellamaError, InvalidOptionError, UnsupportedModelError
from edgellama.quant.sampling_keys import recommended_sampling
from edgellama.sampling.options import CHAT_SAMPLING, SamplingArguments, merged_options
from edgellama.text.chat_template import ChatTemplate, given_template, load_chat_template
from edgellama.text.guard_prompts import Guard
from edgellama.text.named_templates import missing_template
from edgellama.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Unpack

    from edgellama.engine.adapter import Adapter
    from edgellama.engine.adapter_shelf import AdapterScales
    from edgellama.quant.model_config import ModelConfig

__all__ = ["Chunk", "Conversation", "Generation", "Llama", "Session", "Statistics", "Stream"]


class Llama:
    """A model, loaded once and shared by any number of sessions and threads.

    A context manager; closing ends all of its sessions. The weights are pages of the file, which
    must therefore be replaced by renaming: rewritten or cut in place, it changes or ends
    (SIGBUS) the process. The logger "edgellama" tells at DEBUG what loading did.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     result = llama.generate("The capital of France is", max_tokens=2, temperature=0)
        >>> result.text
        ' Paris.'
    """

    def __init__(
        self,
        path_or_name: str | os.PathLike[str],
        *,
        context_length: int | None = None,
        num_threads: int | None = None,
        kv_type: KVTypeChoice = "f16",
        quantize: str | None = None,
        cache_limit: int | None = None,
        exact: bool = False,
        speculation: SpeculationMode = "auto",
        progress: Callable[[int, int], None] | None = None,
        compile_usual: bool = False,
        max_concurrent: int | None = None,
        low_priority: bool = False,
        idle_seconds: float | None = None,
    ) -> None:
        """Load a model.

        Arguments:
            path_or_name: Path of a GGUF file, or a name that ``edgellama pull`` has fetched, such
                as "smollm2". With ``quantize`` also the folder of a checkpoint.
            context_length: Tokens that each session holds, prompt and generated text together,
                from 1. None (the default) is the model's own length, less where memory is short.
            num_threads: Threads that compute, 1 to 256. None (the default) is one per physical
                core, or what EDGELLAMA_NUM_THREADS says.
            kv_type: Number type of the KV cache: "f32", "f16" (the default), "bf16", "q8_0" or
                "q4_0"; two of them for keys and for values, as ("q8_0", "q4_0") or "q8_0/q4_0".
            quantize: Type that the model is converted to before it is loaded, such as "q4_k_m".
                The result is kept in the user's cache, so that only the first time takes long.
                None (the default) loads the file as it is.
            cache_limit: Bytes, from 0, that keys and values of earlier texts may take, so that
                what begins like them is not computed again. None (the default) is a quarter of
                the memory that is free now.
            exact: Whether a text is the same bit for bit alone, computed beside others, after a
                fork and from earlier texts. False by default, because it costs speed.
            speculation: Guess tokens ahead out of the text itself and check several in a step,
                which is faster where a text repeats something and never changes what it says.
                "auto" (the default) does so unless hooks would see the guesses; True always,
                False never. A text may have its own.
            progress: Called as ``progress(compiled, total)`` while kernels are compiled; not at
                all when none must be.
            compile_usual: If any kernel must be compiled, compile those of other usual models and
                caches in the same go, so that later ones need not wait. False by default.
            max_concurrent: Texts that run at once, as the property; None (the default) is no limit.
            low_priority: Whether other programs come first, as the property. False by default.
            idle_seconds: After so long without a text the memory is given back, as by ``unload``.
                None (the default) is never.

        Raises:
            ModelNotFoundError: No such file, or a name that was not pulled.
            ModelFileError: The file is damaged, incomplete or no GGUF file.
            UnsupportedModelError: An architecture, format or tokenizer that does not run here.
            TokenizerError: The file's vocabulary is broken.
            InvalidOptionError: An argument outside its range.
            ConversionError: ``quantize`` failed.
            KernelError: Kernels cannot be compiled or loaded, or the shipped ones do not fit.

        Example:
            >>> from edgellama import Llama
            >>> llama = Llama("smollm2", context_length=512, kv_type="q8_0", num_threads=2)
            >>> llama.context_length
            512
            >>> llama.close()
        """
        from edgellama.loading import load_model

        check_idle_seconds(idle_seconds)
        self._line = WaitingLine(max_concurrent)
        mode = speculation_mode(speculation)
        self._model = load_model(
            path_or_name,
            context_length=context_length,
            num_threads=num_threads,
            kv_type=kv_type,
            quantize=quantize,
            cache_limit=cache_limit,
            exact=exact,
            low_priority=low_priority,
            progress=progress,
            compile_usual=compile_usual,
        )
        self._engine, self._file = self._model.engine, self._model.file
        self._speculation = Speculation(self._engine, "auto" if mode is None else mode)
        self.tokenizer: Tokenizer = self._model.tokenizer
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._sessions_lock = threading.RLock()
        self._closed = False
        self._idle_watch = IdleWatch(self._engine, idle_seconds)

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self._engine.config

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Everything that the file says about the model, by GGUF key."""
        return self._file.metadata

    @property
    def context_length(self) -> int:
        """How many tokens each session holds."""
        return self._model.context_length

    @property
    def sampling_defaults(self) -> SamplingArguments:
        """The sampling that the file recommends, by option, such as ``{"temperature": 0.6}``.

        Empty where it recommends none. Chats use it unless they are told otherwise.
        """
        return cast("SamplingArguments", recommended_sampling(self._file.metadata))

    @property
    def cache_limit(self) -> int:
        """Bytes that the beginnings of earlier texts may take; less drops the oldest at once."""
        return self._engine.pool().limit_bytes

    @cache_limit.setter
    def cache_limit(self, num_bytes: int) -> None:
        from edgellama.loading import check_cache_limit

        check_cache_limit(num_bytes)
        self._engine.pool().limit_bytes = num_bytes

    @property
    def cached_bytes(self) -> int:
        """Bytes that the beginnings of earlier texts take now."""
        return self._engine.pool().idle_bytes

    @property
    def num_threads(self) -> int:
        """How many threads compute. Another number may be assigned at any time, as a cap.

        It holds from the next step on, and changes no text.
        """
        return self._engine.num_threads

    @num_threads.setter
    def num_threads(self, number: int) -> None:
        self._engine.num_threads = number

    @property
    def low_priority(self) -> bool:
        """Whether the threads that compute give way to other programs; may be assigned.

        The thread that waits for a text computes, too, and keeps its own priority. On macOS
        this changes nothing.
        """
        return self._engine.low_priority

    @low_priority.setter
    def low_priority(self, is_low: bool) -> None:
        self._engine.low_priority = is_low

    @property
    def idle_seconds(self) -> float | None:
        """After how long without a text the memory is given back; None is never."""
        return self._idle_watch.seconds

    @idle_seconds.setter
    def idle_seconds(self, seconds: float | None) -> None:
        self._idle_watch.seconds = seconds

    @property
    def is_loaded(self) -> bool:
        """Whether weights are mapped and threads are there; the next text sees to both."""
        return self._engine.is_loaded

    def unload(self) -> None:
        """Give back all memory but that of open sessions, until the next text loads it again.

        That takes as long as mapping the file. What texts of earlier sessions have left is
        forgotten; sessions and conversations go on where they were.

        Raises:
            EdgellamaError: It is called by a hook, in the middle of a step.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     llama.unload()
            ...     before = llama.is_loaded
            ...     text = llama.generate("One, two,", max_tokens=2, temperature=0).text
            ...     before, text, llama.is_loaded
            (False, ' or three', True)
        """
        self._engine.unload()

    @property
    def max_concurrent(self) -> int | None:
        """How many texts may run at once; None is no limit. Another may be assigned at any time.

        Further ones wait in the order in which their first chunk was asked for; their
        ``queue_position`` tells how many have to end before. A batch counts as one text. A text
        runs until its stream ends, so who holds one stream open and waits for another on the
        same thread waits for itself.
        """
        return self._line.max_running

    @max_concurrent.setter
    def max_concurrent(self, most: int | None) -> None:
        self._line.max_running = most

    def generate(
        self,
        prompt: str | Sequence[int],
        **options: Unpack[PromptOptions],
    ) -> Generation:
        """Go on with a text, in a session of its own, and wait for the end.

        Arguments:
            prompt: Text, encoded with a BOS where the model wants one, or token ids as they are.
            options: PromptOptions: ``max_tokens``, ``stop``, ``adapters``, ``parse_special`` and
                the fields of SamplingOptions.

        Returns:
            The text, its tokens, why it ended, and counts and seconds.

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
        """Go on with a text, piece by piece, in a session of its own.

        Arguments:
            prompt: Text, encoded with a BOS where the model wants one, or token ids as they are.
            options: PromptOptions: ``max_tokens``, ``stop``, ``adapters``, ``parse_special`` and
                the fields of SamplingOptions.

        Returns:
            An iterator of chunks, made as they are asked for. ``cancel`` ends it from any
            thread, leaving it as a context manager too; ``result`` then is the whole.

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
        """Write what stands between a prefix and a suffix, and wait for the end.

        For models that were trained to fill gaps, such as Code Llama 7B and 13B. ``stream``,
        ``generate_batch`` and sessions do it with ``suffix=``.

        Arguments:
            prefix: What stands before the gap; may be empty.
            suffix: What stands behind it; may be empty.
            suffix_first: Show the model the suffix before the prefix. False by default; models
                that know only one order have theirs.
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
    ) -> AsyncStream:
        """``stream`` for event loops; what is wrong with the call is raised by the first await.

        Example: see AsyncStream.
        """
        return AsyncStream(lambda: self.stream(prompt, **options))

    def generate_batch(
        self,
        prompts: Iterable[BatchPrompt | None],
        *,
        template: str | None = None,
        width: int = DEFAULT_WIDTH,
        on_error: OnError | None = None,
        **options: Unpack[BatchOptions],
    ) -> Batch:
        """Texts that follow many prompts, some computed together, as they finish.

        Leaving the loop early cancels what runs.

        Arguments:
            prompts: Any iterable, read as far as there is room, so that millions of prompts take
                the memory of ``width``. Each is a text, a row of token ids, or a mapping such as
                ``{"prompt": "One,", "max_tokens": 8}`` or ``{"messages": [...]}``, a chat: its
                other keys are options of this call, for it alone. None among them says that
                there is none at the moment.
            template: Chat format of ``messages``: the name of a published one or Jinja source.
                None (the default) is the file's.
            width: How many are computed together at most, from 1; 32 by default.
            on_error: Called as ``on_error(index, error)`` for prompts that cannot run, such as
                ones longer than the context. None (the default) raises the first such error.
            options: BatchOptions: PromptOptions for all prompts, and ChatOptions such as
                ``tools`` for ``messages``. Sampling that is not given has its default, for
                ``messages`` that of ``chat``.

        Returns:
            An iterator of results, in the order in which they finish; ``index`` is the number of
            a result's prompt. ``cancel`` ends it from any thread, ``close`` from its own.

        Raises:
            ContextLengthError: A prompt has more tokens than the context holds.
            InvalidOptionError: An argument of another type or outside its range.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     results = list(llama.generate_batch(["One, two,", "A, b,"], max_tokens=2))
            >>> sorted(result.index for result in results)
            [0, 1]
        """
        if isinstance(prompts, (str, Mapping)):
            raise InvalidOptionError("prompts is one prompt; allowed: an iterable of prompts")
        requests = BatchPrompts(
            self.tokenizer,
            cache(partial(self._chat_template, template)),
            self.sampling_defaults or CHAT_SAMPLING,
            options,
        )
        return Batch(
            self._engine,
            self.tokenizer,
            (None if prompt is None else partial(requests.request, prompt) for prompt in prompts),
            width=width,
            context_length=self.context_length,
            on_error=on_error,
            line=self._line,
            speculation=self._speculation,
        )

    def generate_batch_async(
        self,
        prompts: Iterable[BatchPrompt | None],
        *,
        template: str | None = None,
        width: int = DEFAULT_WIDTH,
        on_error: OnError | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncBatch:
        """``generate_batch`` for event loops; what is wrong is raised by the first await.

        Example: see AsyncBatch.
        """
        return AsyncBatch(
            lambda: self.generate_batch(
                prompts, template=template, width=width, on_error=on_error, **options
            )
        )

    def embed(
        self,
        texts: str | Iterable[str | Sequence[int]],
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[EmbedOptions],
    ) -> npt.NDArray[np.float32]:
        """Texts as vectors, several computed together: the states after the last norm, pooled.

        Arguments:
            texts: One text or several, each a string or a row of token ids.
            progress: Called as ``progress(done, total)`` with texts. None (the default) is nobody.
            options: EmbedOptions for all texts, such as ``pooling="last"``.

        Returns:
            float32 (texts, width), in the order of the texts; of one text, too.

        Raises:
            ContextLengthError: A text has more tokens than the context holds, without ``truncate``.
            InvalidOptionError: An empty text, an argument of another type or outside its range.
            UnsupportedModelError: The file asks for a pooling that there is not.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> texts = ["How do I bake bread?", "Recipes for loaves", "Tax law"]
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     question, *others = llama.embed(texts)
            >>> bool(question @ others[0] > question @ others[1])
            True
        """
        all_texts = as_texts(texts)
        found = told(self.embed_each(all_texts, **options), len(all_texts), progress)
        return as_rows(found, self.config.embedding_length)

    async def embed_async(
        self,
        texts: str | Iterable[str | Sequence[int]],
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[EmbedOptions],
    ) -> npt.NDArray[np.float32]:
        """``embed`` for event loops; cancelling the task ends what runs.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     asyncio.run(llama.embed_async(["one", "two"])).shape
            (2, 576)
        """
        all_texts = as_texts(texts)
        items: AsyncItems[Embedding, InOrder[Embedding]] = AsyncItems(
            lambda: self.embed_each(all_texts, **options)
        )
        found = await gathered(items, len(all_texts), progress)
        return as_rows(found, self.config.embedding_length)

    def embed_each(
        self, texts: Iterable[str | Sequence[int]], **options: Unpack[EmbedOptions]
    ) -> InOrder[Embedding]:
        """The same one after the other, so that millions of texts take little memory.

        Arguments:
            texts: Any iterable, read as far as there is room.
            options: EmbedOptions for all texts, such as ``pooling="last"``.

        Returns:
            An iterator of embeddings in the order of the texts, with counts of tokens. ``cancel``
            ends it from any thread, ``close`` from its own, as does leaving the loop.

        Raises:
            ContextLengthError: A text has more tokens than the context holds, without ``truncate``.
            InvalidOptionError: An empty text, an argument of another type or outside its range.
            UnsupportedModelError: The file asks for a pooling that there is not.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=4) as llama:
            ...     found = list(llama.embed_each(["one two three four five"], truncate=True))
            >>> found[0].num_tokens, found[0].num_dropped
            (4, 1)
        """
        self._check_open()
        adapters = self._engine.adapters.adapter_set(options.get("adapters"))
        how = HowToEmbed.of(options, self.metadata)
        return Embedder(self._engine, self.tokenizer, self.context_length, how, adapters).each(
            texts
        )

    def score(
        self,
        text: str | Sequence[int],
        prompt: str | Sequence[int] | None = None,
        *,
        alternatives: int = 0,
        parse_special: bool = False,
        adapters: AdapterScales | None = None,
    ) -> Score:
        """How probable the model finds a text, as it stands or behind a prompt.

        Arguments:
            text: What is scored: text, or token ids.
            prompt: What stands before it and is not scored. Two strings become the tokens of the
                whole string: should one reach over the border, the text begins with it. None
                (the default) scores the text from its second token on, or its first where the
                model begins texts with a BOS.
            alternatives: How many of the likeliest tokens to give at each place, from 0 (the
                default).
            parse_special: Read control tokens such as "<|im_end|>" in texts. False by default.
            adapters: Loaded adapters, or their names, with scales. None (the default) is none.

        Returns:
            The log-probability, the perplexity, and the log-probability of every token.

        Raises:
            ContextLengthError: Prompt and text have more tokens than the context holds.
            InvalidOptionError: An empty text, an argument of another type or outside its range.
            EdgellamaError: The model is closed.

        Example: see Score.
        """
        stream = self._score_stream(text, prompt, alternatives, parse_special, adapters)
        return Score.of(stream.wait())

    async def score_async(
        self,
        text: str | Sequence[int],
        prompt: str | Sequence[int] | None = None,
        *,
        alternatives: int = 0,
        parse_special: bool = False,
        adapters: AdapterScales | None = None,
    ) -> Score:
        """``score`` for event loops; cancelling the task ends it.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     score = asyncio.run(llama.score_async("One, two, three"))
            >>> score.logprob < 0
            True
        """
        return Score.of(
            await AsyncStream(
                lambda: self._score_stream(text, prompt, alternatives, parse_special, adapters)
            ).wait()
        )

    def _score_stream(
        self,
        text: str | Sequence[int],
        prompt: str | Sequence[int] | None,
        alternatives: int,
        parse_special: bool,
        adapters: AdapterScales | None,
    ) -> Stream:
        request = score_request(
            self.tokenizer,
            text,
            prompt,
            alternatives=alternatives,
            parse_special=parse_special,
            adapters=adapters,
        )
        return self.session().start(request)

    def classify(
        self,
        prompt: str | Sequence[int],
        choices: Sequence[str],
        *,
        normalize: Normalization = "sum",
        parse_special: bool = False,
        adapters: AdapterScales | None = None,
    ) -> Classification:
        """How probably a prompt goes on with each of several texts; it is computed once for all.

        A choice counts with all of its tokens, so what is longer is less probable: choices that
        begin alike, or are of one length, compare best. "yes" counts "yesterday" too.

        Arguments:
            prompt: Text, encoded with a BOS where the model wants one, or token ids.
            choices: The texts, with their spaces: behind "The sky is" stands " blue".
            normalize: "sum" (the default) compares the probabilities of whole choices, "mean"
                those of a token on average, so that length does not count.
            parse_special: Read control tokens such as "<|im_end|>" in texts. False by default.
            adapters: Loaded adapters, or their names, with scales. None (the default) is none.

        Returns:
            The probability of each choice among them, and its log-probability behind the prompt.

        Raises:
            ContextLengthError: Prompt and choice have more tokens than the context holds.
            InvalidOptionError: No choices, an empty or a double one, an empty prompt.
            EdgellamaError: The model is closed.

        Example: see Classification.
        """
        made = self._classifier(prompt, choices, normalize, parse_special, adapters)
        return classification(made.choices, list(made.logprobs()), normalize)

    async def classify_async(
        self,
        prompt: str | Sequence[int],
        choices: Sequence[str],
        *,
        normalize: Normalization = "sum",
        parse_special: bool = False,
        adapters: AdapterScales | None = None,
    ) -> Classification:
        """``classify`` for event loops; cancelling the task ends it.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     asyncio.run(llama.classify_async("The sky is", [" blue", " a fish"])).best
            ' blue'
        """
        items: AsyncItems[tuple[float, int], InOrder[tuple[float, int]]] = AsyncItems(
            lambda: self._classifier(prompt, choices, normalize, parse_special, adapters).logprobs()
        )
        found = await gathered(items, len(choices), None)
        return classification(choices, found, normalize)

    def _classifier(
        self,
        prompt: str | Sequence[int],
        choices: Sequence[str],
        normalize: Normalization,
        parse_special: bool,
        adapters: AdapterScales | None,
    ) -> Classifier:
        self._check_open()
        check_normalization(normalize)
        made = classifier(
            self._engine,
            self.tokenizer,
            prompt,
            choices,
            parse_special=parse_special,
            adapters=self._engine.adapters.adapter_set(adapters),
        )
        for text in made.texts:
            check_prompt(text, self.context_length, self.config.vocab_size)
        return made

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[RerankOptions],
    ) -> tuple[Ranked, ...]:
        """Documents by how well they answer a query: how probably the model says yes to each.

        Arguments:
            query: A question, or what is looked for.
            documents: Texts, of which several are computed together.
            top_n: How many of the best to return, from 1. None (the default) is all.
            progress: Called as ``progress(done, total)`` with documents. None (the default) is
                nobody.
            options: RerankOptions, such as ``prompt="..."``.

        Returns:
            The documents with their scores, the best first.

        Raises:
            ContextLengthError: A prompt has more tokens than the context holds, without
                ``truncate``.
            InvalidOptionError: An argument of another type or outside its range.
            UnsupportedModelError: ``chat`` is True and the file has no chat format.
            TemplateError: The chat format refuses the prompt.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> animals = ["A stone is hard.", "A bat can fly.", "Tables have legs."]
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     ranked = llama.rerank("Which animals can fly?", animals, top_n=2)
            >>> [each.score >= ranked[1].score for each in ranked]
            [True, True]
        """
        texts, best = as_documents(documents), checked_top_n(top_n)
        return best_first(told(self._ranked(query, texts, options), len(texts), progress), best)

    async def rerank_async(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[RerankOptions],
    ) -> tuple[Ranked, ...]:
        """``rerank`` for event loops; cancelling the task ends what runs.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     len(asyncio.run(llama.rerank_async("Fruit?", ["An apple.", "A car."])))
            2
        """
        texts, best = as_documents(documents), checked_top_n(top_n)
        items: AsyncItems[Ranked, InOrder[Ranked]] = AsyncItems(
            lambda: self._ranked(query, texts, options)
        )
        return best_first(await gathered(items, len(texts), progress), best)

    def _ranked(
        self, query: str, documents: Sequence[str], options: RerankOptions
    ) -> InOrder[Ranked]:
        self._check_open()
        how = HowToRank.of(options)
        chat, template = options.get("chat"), options.get("template")
        if template is not None or chat:
            chosen: ChatTemplate | None = self._chat_template(template)
        else:
            own = load_chat_template(self._file.metadata, self.tokenizer)
            chosen = own if chat is None else None
        prompt = RankPrompt(self.tokenizer, query, how.prompt, chosen)
        adapters = self._engine.adapters.adapter_set(options.get("adapters"))
        return Reranker(self._engine, prompt, self.context_length, how, adapters).each(documents)

    def moderate(
        self,
        conversation: str | Sequence[Mapping[str, object]],
        *,
        role: str | None = None,
        categories: Mapping[str, str] | Sequence[str] | None = None,
        threshold: float = 0.5,
        version: int | None = None,
    ) -> Moderation:
        """Whether a message is safe, as a Llama Guard (version 1 to 3) judges it.

        Arguments:
            conversation: Messages with ``role`` and ``content``, of which the last one is judged
                and the others are shown; or the text of a user's message.
            role: "user" or "assistant": the last message of that role is judged, and what comes
                behind it is left out. None (the default) is the last message, whose ever it is.
            categories: What counts as unsafe, in place of the model's own categories: names by
                code, such as ``{"S1": "Spoilers"}``, or a list of names. None (the default) are
                the model's own.
            threshold: The probability of "unsafe" from which on that is the verdict, 0.5 by
                default.
            version: 1, 2 or 3, where neither the file's chat template nor its name tells which
                version the model is like. None (the default) asks the file.

        Returns:
            The verdict, the categories that are violated, and the probability of "unsafe".

        Raises:
            UnsupportedModelError: The model is no Llama Guard, and no ``version`` is given.
            ContextLengthError: The conversation has more tokens than the context holds.
            InvalidOptionError: Malformed messages, none to judge, an argument outside its range.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("llama-guard-3-1b.gguf") as llama:  # doctest: +SKIP
            ...     llama.moderate("How do I bake bread?").verdict
        """
        return next(self._judging(conversation, role, categories, threshold, version))

    async def moderate_async(
        self,
        conversation: str | Sequence[Mapping[str, object]],
        *,
        role: str | None = None,
        categories: Mapping[str, str] | Sequence[str] | None = None,
        threshold: float = 0.5,
        version: int | None = None,
    ) -> Moderation:
        """``moderate`` for event loops; cancelling the task ends what runs.

        Example: see ``moderate``.
        """
        items: AsyncItems[Moderation, Judging] = AsyncItems(
            lambda: self._judging(conversation, role, categories, threshold, version)
        )
        async for judged in items:
            return judged
        raise EdgellamaError("the judgement was cancelled")

    def _judging(
        self,
        conversation: object,
        role: object,
        categories: object,
        threshold: object,
        version: int | None,
    ) -> Judging:
        self._check_open()
        request = ModerationRequest.of(conversation, role, categories, threshold)
        own = load_chat_template(self._file.metadata, self.tokenizer)
        guard = Guard(self.tokenizer, own, self._file.metadata.get("general.name"), version)
        prompt = guard.prompt(request.messages, request.judged, request.categories)
        return Judging(self._engine, self.tokenizer, prompt, request.threshold, self.context_length)

    def chat(
        self,
        system: str | None = None,
        *,
        messages: Sequence[Mapping[str, object]] | None = None,
        template: str | None = None,
        when_full: WhenFull = "drop",
        **options: Unpack[ChatOptions],
    ) -> Conversation:
        """A new conversation in the model's own chat format, with its own session.

        Arguments:
            system: System prompt, before all messages. None (the default) is none, or the one
                that ``messages`` begin with.
            messages: What was said before, as dictionaries with ``role`` ("system", "user" or
                "assistant") and ``content`` (text, or text parts). If they end with the user's,
                ``regenerate`` answers it. None (the default) starts anew.
            template: Chat format in place of the file's: the name of a published one ("llama2",
                "llama3", "chatml", "mistral", "zephyr", "alpaca", "vicuna", "wizardlm", "koala",
                "openassistant", "guanaco") or Jinja source. None (the default) is the file's.
            when_full: What happens once the messages fill the context: "drop" (the default)
                leaves the oldest turns out, "stop" gives empty replies, "error" raises
                ContextLengthError.
            options: ChatOptions for every reply, such as ``tools``; its session has the
                ``adapters``. Sampling that is not given is what the file recommends
                (``sampling_defaults``); where it recommends nothing, a repetition penalty of 1.1
                and DRY keep small models from looping.

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
        defaults = self.sampling_defaults or CHAT_SAMPLING
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

    def load_adapter(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Adapter:
        """Make a LoRA adapter ready for texts; the model itself stays as it is.

        The file stays mapped, as the model's does. ``adapters=`` of sessions and of single texts
        then takes the adapter, with a scale, beside any number of others.

        Arguments:
            path: What ``edgellama convert-lora`` writes, or llama.cpp's converter.
            name: What it is called in ``adapters=``. None (the default) is the file's name
                without its ending.
            progress: Called as ``progress(compiled, total)`` while kernels are compiled; not at
                all when none must be. None (the default) tells nobody.

        Returns:
            The adapter, with its ``name``, ``ranks`` and ``num_matrices``.

        Raises:
            ModelNotFoundError: No such file.
            ModelFileError: The file is damaged, or an adapter of another model.
            UnsupportedModelError: It is no plain LoRA adapter of a Llama.
            InvalidOptionError: The name is taken.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama:  # doctest: +SKIP
            ...     french = llama.load_adapter("french.gguf")
            ...     text = llama.generate("Once upon", adapters={french: 0.8}).text
        """
        self._check_open()
        return self._engine.adapters.load(path, name, progress)

    def unload_adapter(self, adapter: Adapter | str) -> None:
        """Let go of an adapter, whose name is free then.

        Texts that use it go on; its memory is given back with the last of them.

        Arguments:
            adapter: What ``load_adapter`` returned, or its name.

        Raises:
            InvalidOptionError: No such adapter is loaded.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama:  # doctest: +SKIP
            ...     llama.load_adapter("french.gguf")
            ...     llama.unload_adapter("french")
        """
        self._engine.adapters.unload(adapter)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters that are loaded, by name."""
        return self._engine.adapters.loaded

    def session(
        self, *, context_length: int | None = None, adapters: AdapterScales | None = None
    ) -> Session:
        """A new session: a KV cache of its own, which keeps what it has seen between calls.

        Arguments:
            context_length: Tokens that it holds, from 1. None (the default) is the model's
                ``context_length`` as loaded.
            adapters: Loaded adapters, or their names, with scales, such as ``{"french": 0.5}``,
                for all its texts; ``session.adapters`` changes them. None (the default) is none.

        Returns:
            The session, a context manager; closing it gives its memory back.

        Raises:
            InvalidOptionError: A length below 1, an adapter that is not loaded.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama, llama.session(context_length=128) as session:
            ...     first = session.generate("Once upon", max_tokens=1, temperature=0)
            ...     again = session.generate("Once upon a time", max_tokens=1, temperature=0)
            >>> again.statistics.prefilled_tokens < again.prompt_tokens
            True
        """
        with self._sessions_lock:
            self._check_open()
            session = Session(
                self._engine,
                self.tokenizer,
                context_length=self.context_length if context_length is None else context_length,
                kv_type=self._model.kv_type,
                adapters=adapters,
                siblings=self._sessions,
                line=self._line,
                speculation=self._speculation,
            )
        return session

    def add_hook(
        self,
        function: RowFunction,
        place: HookPlace = "residual",
        *,
        layers: Collection[int] | None = None,
    ) -> RowHook:
        """Let a function see, and change, numbers in the middle of every step from now on.

        Arguments:
            function: Called as ``function(rows, step)`` on the thread that computes, with f32
                ``rows`` (tokens, width) that may be changed in place. ``step`` says which
                ``tokens``, ``positions`` and ``sequences`` they belong to.
            place: "residual" (the default), the residual stream after a layer; "attention", what
                queries, keys and values of a layer are made of; "logits".
            layers: Numbers of layers, from 0; None (the default) for all of them.

        Returns:
            The hook, for ``remove_hook``. Texts computed earlier are not used for new ones.

        Raises:
            InvalidOptionError: An unknown place, or layers that there are not.

        Example:
            >>> import numpy as np
            >>> from edgellama import Llama, StepRows
            >>> def silence(rows: np.ndarray, step: StepRows) -> None:
            ...     rows[:, 0] = -1000.0
            >>> with Llama("smollm2", context_length=64) as llama:
            ...     hook = llama.add_hook(silence, "logits")
            ...     llama.remove_hook(hook)
        """
        hook = RowHook(function, place, None if layers is None else tuple(layers))
        hook.check_layers(self.config.block_count)
        self._engine.hooks = (*self._engine.hooks, hook)
        return hook

    def remove_hook(self, hook: RowHook) -> None:
        """Let a function of ``add_hook`` see nothing any more.

        Arguments:
            hook: What ``add_hook`` returned.

        Raises:
            InvalidOptionError: This model has no such hook.

        Example: see ``add_hook``.
        """
        hooks = [other for other in self._engine.hooks if other is not hook]
        if len(hooks) == len(self._engine.hooks):
            raise InvalidOptionError("this model has no such hook; give what add_hook returned")
        self._engine.hooks = tuple(hooks)

    def load_session(
        self,
        path: str | os.PathLike[str],
        *,
        context_length: int | None = None,
        adapters: AdapterScales | None = None,
        verify: bool = False,
    ) -> Session:
        """A session that goes on where a saved one was, at once.

        Arguments:
            path: What ``Session.save`` wrote, for the same model and KV type, on any CPU.
            context_length: Tokens that it holds, from 1. None (the default) is the model's
                ``context_length`` as loaded.
            adapters: Those that it was saved with, as for a new session, with the same scales.
                None (the default) is none.
            verify: Read all keys and values at once and compare their checksums. False (the
                default) takes them as they are: damaged ones change texts, nothing else.

        Returns:
            The session, a context manager. Prompts that begin with its ``tokens`` go on from
            there.

        Raises:
            SessionFileError: No such file, a damaged one, or one of another model, KV type or
                adapters.
            ContextLengthError: It has more tokens than the context.
            OSError: It cannot be read.
            EdgellamaError: The model is closed.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from edgellama import Llama
            >>> file = Path(tempfile.mkdtemp()) / "story.session"
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     with llama.session() as session:
            ...         first = session.generate("Once upon a time", max_tokens=8)
            ...         session.save(file)
            ...     with llama.load_session(file) as session:
            ...         len(session.tokens) >= first.prompt_tokens
            True
        """
        session = self.session(context_length=context_length, adapters=adapters)
        try:
            session.load(path, verify=verify)
        except BaseException:
            session.close()
            raise
        return session

    def close(self) -> None:
        """End all sessions and give everything back, the mapped file too; more calls do nothing.

        Whatever was made from the model raises EdgellamaError when it is used afterwards;
        ``config``, ``metadata`` and ``tokenizer`` stay.

        Example:
            >>> from edgellama import Llama
            >>> llama = Llama("smollm2", context_length=128)
            >>> llama.close()
            >>> llama.generate("Hello")
            Traceback (most recent call last):
            edgellama.quant.errors.EdgellamaError: this model is closed
        """
        with self._sessions_lock:
            self._closed = True
            sessions = list(self._sessions)
        self._idle_watch.close()
        for session in sessions:
            session.close()
        self._engine.close()
        self._file.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EdgellamaError("this model is closed")

    def _chat_template(self, given: str | None) -> ChatTemplate:
        if given is not None:
            return given_template(given, self.tokenizer)
        template = load_chat_template(self._file.metadata, self.tokenizer)
        if template is None:
            raise UnsupportedModelError(
                f"{self._file.path}: the file has no chat template", way=missing_template()
            )
        return template
