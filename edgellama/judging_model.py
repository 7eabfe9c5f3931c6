"""What a model says of texts that are there: vectors, probabilities, an order, a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from edgellama.open_model import OpenModel
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

    from edgellama.engine.adapter_shelf import AdapterScales
    from edgellama.generation.async_items import AsyncItems
    from edgellama.generation.embedding import Embedding, EmbedOptions
    from edgellama.generation.in_order import InOrder
    from edgellama.generation.moderation import Judging, Moderation
    from edgellama.generation.reranking import Ranked, RerankOptions
    from edgellama.generation.scoring import Classification, Classifier, Normalization, Score
    from edgellama.generation.stream import Stream
    from edgellama.text.chat_template import ChatTemplate


class JudgingModel(OpenModel):
    """An open model that judges texts instead of writing them."""

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
        from edgellama.generation.embedding import as_rows, as_texts
        from edgellama.generation.in_order import told

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
        from edgellama.generation.async_items import AsyncItems, gathered
        from edgellama.generation.embedding import as_rows, as_texts

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
        from edgellama.generation.embedding import Embedder, HowToEmbed

        self._check_open()
        adapters = self._engine.adapters.adapter_set(options.get("adapters"))
        how = HowToEmbed.of(options, self.metadata)
        return Embedder(
            self._engine, self.tokenizer, self.context_length, how, adapters, self._line
        ).each(texts)

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
        from edgellama.generation.scoring import Score

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
        from edgellama.generation.async_stream import AsyncStream
        from edgellama.generation.scoring import Score

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
        from edgellama.generation.scoring import score_request

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
        prompt: str | Sequence[int] | Sequence[Mapping[str, object]],
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
            prompt: Text, encoded with a BOS where the model wants one, or token ids; or messages
                of a chat, such as ``[{"role": "user", "content": "..."}]``, which are put into
                the file's chat format: then the choices are replies.
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
            UnsupportedModelError: There are messages, and the file has no chat format.
            EdgellamaError: The model is closed.

        Example: see Classification.
        """
        from edgellama.generation.scoring import classification

        made = self._classifier(prompt, choices, normalize, parse_special, adapters)
        return classification(made.choices, list(made.logprobs()), normalize)

    async def classify_async(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, object]],
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
        from edgellama.generation.async_items import AsyncItems, gathered
        from edgellama.generation.scoring import classification

        items: AsyncItems[tuple[float, int], InOrder[tuple[float, int]]] = AsyncItems(
            lambda: self._classifier(prompt, choices, normalize, parse_special, adapters).logprobs()
        )
        found = await gathered(items, len(choices), None)
        return classification(choices, found, normalize)

    def _classifier(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, object]],
        choices: Sequence[str],
        normalize: Normalization,
        parse_special: bool,
        adapters: AdapterScales | None,
    ) -> Classifier:
        from edgellama.generation.scoring import check_normalization, classifier
        from edgellama.generation.session import check_prompt

        self._check_open()
        check_normalization(normalize)
        made = classifier(
            self._engine,
            self.tokenizer,
            self._chat_tokens(prompt),
            choices,
            parse_special=parse_special,
            adapters=self._engine.adapters.adapter_set(adapters),
            line=self._line,
        )
        for text in made.texts:
            check_prompt(text, self.context_length, self.config.vocab_size)
        return made

    def _chat_tokens(
        self, prompt: str | Sequence[int] | Sequence[Mapping[str, object]]
    ) -> str | Sequence[int]:
        """The tokens of messages in the chat format; other prompts as they are."""
        is_list = isinstance(prompt, (list, tuple))
        messages = [item for item in prompt if isinstance(item, Mapping)] if is_list else []
        if not messages or len(messages) < len(prompt):
            return cast("str | Sequence[int]", prompt)
        from edgellama.generation.messages import checked_messages
        from edgellama.text.chat_template import encode_chat

        checked = checked_messages(messages)
        return encode_chat(self.tokenizer, self._chat_template(None), checked)

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
        from edgellama.generation.in_order import told
        from edgellama.generation.reranking import as_documents, best_first, checked_top_n

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
        from edgellama.generation.async_items import AsyncItems, gathered
        from edgellama.generation.reranking import as_documents, best_first, checked_top_n

        texts, best = as_documents(documents), checked_top_n(top_n)
        items: AsyncItems[Ranked, InOrder[Ranked]] = AsyncItems(
            lambda: self._ranked(query, texts, options)
        )
        return best_first(await gathered(items, len(texts), progress), best)

    def _ranked(
        self, query: str, documents: Sequence[str], options: RerankOptions
    ) -> InOrder[Ranked]:
        from edgellama.generation.reranking import HowToRank, RankPrompt, Reranker
        from edgellama.text.chat_template import load_chat_template

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
        return Reranker(self._engine, prompt, self.context_length, how, adapters, self._line).each(
            documents
        )

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
        from edgellama.generation.async_items import AsyncItems

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
        from edgellama.generation.moderation import Judging, ModerationRequest
        from edgellama.text.chat_template import load_chat_template
        from edgellama.text.guard_prompts import Guard

        self._check_open()
        request = ModerationRequest.of(conversation, role, categories, threshold)
        own = load_chat_template(self._file.metadata, self.tokenizer)
        guard = Guard(self.tokenizer, own, self._file.metadata.get("general.name"), version)
        prompt = guard.prompt(request.messages, request.judged, request.categories)
        return Judging(
            self._engine,
            self.tokenizer,
            prompt,
            request.threshold,
            self.context_length,
            self._line,
        )
