"""A model that judges given texts: probabilities, a choice, a verdict.

``generation.judging`` computes them, in ``scoring`` and ``moderation``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import edgellama
from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.argument_types import Normalization
from edgellama.generation.concurrency.twins import takes_what
from edgellama.generation.sessions.stream import Stream
from edgellama.quant.errors import EdgellamaError, GenerationCancelled
from edgellama.retrieval_model import RetrievalModel

if TYPE_CHECKING:
    from edgellama.generation.concurrency.async_items import AsyncItems
    from edgellama.generation.concurrency.in_order import InOrder
    from edgellama.generation.judging.moderation import Judging
    from edgellama.generation.judging.scoring import Classifier


class JudgingModel(RetrievalModel):
    """An open model that judges texts instead of writing them."""

    def score(
        self,
        text: str | Sequence[int],
        prompt: str | Sequence[int] | None = None,
        *,
        alternatives: int = 0,
        parse_special: bool = False,
        adapters: AdapterScales | None = None,
    ) -> edgellama.Score:
        """Compute how probable the model finds a text, by itself or after a prompt.

        Arguments:
            text: The text to score, or its token ids.
            prompt: A text before it that is not scored. If both are strings, the whole string is
                turned into tokens; a token that crosses the border belongs to the text. None (the
                default) scores the text from its second token on, or from its first if the model
                begins texts with a BOS.
            alternatives: How many of the likeliest tokens to give at each place, from 0 (the
                default).
            parse_special: Read control tokens such as "<|im_end|>" in texts. False by default.
            adapters: Loaded adapters, or their names, with a scale for each. None (the default) is
                none.

        Returns:
            The log-probability, the perplexity, and the log-probability of every token.

        Raises:
            ContextLengthError: Prompt and text have more tokens than the context holds.
            InvalidOptionError: An empty text, an argument of another type or outside its range.
            EdgellamaError: The model is closed.

        Example: see Score.
        """
        from edgellama.generation.judging.scoring import Score

        stream = self._score_stream(
            text,
            prompt,
            alternatives=alternatives,
            parse_special=parse_special,
            adapters=adapters,
        )
        with self._reporting_closed():
            return Score.of(stream.wait())

    @takes_what(score)
    async def score_async(self, *given: Any, **options: Any) -> edgellama.Score:
        """``score`` for event loops; cancelling the task ends it.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     score = asyncio.run(llama.score_async("One, two, three"))
            >>> score.logprob < 0
            True
        """
        from edgellama.generation.judging.scoring import Score
        from edgellama.generation.sessions.async_stream import AsyncStream

        stream = AsyncStream(lambda: self._score_stream(*given, **options))
        with self._reporting_closed():
            return Score.of(await stream.wait())

    @contextmanager
    def _reporting_closed(self) -> Iterator[None]:
        """A text that closing the model has cancelled raises what other calls raise then."""
        try:
            yield
        except GenerationCancelled:
            self._check_open()
            raise

    @takes_what(score)
    def _score_stream(self, *given: Any, **options: Any) -> Stream:
        from edgellama.generation.judging.scoring import score_request

        return self.session().start(score_request(self.tokenizer, *given, **options))

    def classify(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, object]],
        choices: Sequence[str],
        *,
        normalize: Normalization = "sum",
        parse_special: bool = False,
        adapters: AdapterScales | None = None,
    ) -> edgellama.Classification:
        """Compute how probably a prompt continues with each of several texts.

        The prompt is computed once for all. A choice counts with all of its tokens, so longer
        choices are less probable; choices of the same length, or with the same beginning, compare
        best. "yes" counts "yesterday" too.

        Arguments:
            prompt: Text, encoded with a BOS where the model wants one, or token ids; or messages
                of a chat, such as ``[{"role": "user", "content": "..."}]``, which are put into
                the file's chat format: then the choices are replies.
            choices: The texts, including their spaces: "The sky is" continues with " blue".
            normalize: "sum" (the default) compares the probabilities of whole choices; "mean"
                compares the average over their tokens, so that length does not count.
            parse_special: Read control tokens such as "<|im_end|>" in texts. False by default.
            adapters: Loaded adapters, or their names, with a scale for each. None (the default) is
                none.

        Returns:
            The probability of each choice among all of them, and its log-probability after the
            prompt.

        Raises:
            ContextLengthError: Prompt and choice have more tokens than the context holds.
            InvalidOptionError: No choices, an empty or a double one, an empty prompt.
            UnsupportedModelError: There are messages, and the file has no chat format.
            EdgellamaError: The model is closed.

        Example: see Classification.
        """
        from edgellama.generation.judging.scoring import classification

        made = self._classifier(
            prompt, choices, normalize=normalize, parse_special=parse_special, adapters=adapters
        )
        return classification(made, list(made.logprobs()))

    @takes_what(classify)
    async def classify_async(self, *given: Any, **options: Any) -> edgellama.Classification:
        """``classify`` for event loops; cancelling the task ends it.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     asyncio.run(llama.classify_async("The sky is", [" blue", " a fish"])).best
            ' blue'
        """
        from edgellama.generation.concurrency.async_items import AsyncItems, gathered
        from edgellama.generation.judging.scoring import classification

        made: list[Classifier] = []

        def make() -> InOrder[tuple[float, int]]:
            made.append(self._classifier(*given, **options))
            return made[0].logprobs()

        items: AsyncItems[tuple[float, int], InOrder[tuple[float, int]]] = AsyncItems(make)
        found = await gathered(items)
        return classification(made[0], found)

    def _classifier(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, object]],
        choices: Sequence[str],
        *,
        normalize: Normalization = "sum",
        parse_special: bool = False,
        adapters: AdapterScales | None = None,
    ) -> Classifier:
        from edgellama.generation.arguments import check_prompt
        from edgellama.generation.judging.scoring import classifier

        self._check_open()
        made = classifier(
            self._engine,
            self.tokenizer,
            self._chat_tokens(prompt),
            choices,
            normalization=normalize,
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
        from edgellama.generation.chat.messages import checked_messages
        from edgellama.text.chat_tokens import encode_chat

        checked = checked_messages(messages)
        return encode_chat(self.tokenizer, self._chat_template(None), checked)

    def moderate(
        self,
        conversation: str | Sequence[Mapping[str, object]],
        *,
        role: str | None = None,
        categories: Mapping[str, str] | Sequence[str] | None = None,
        threshold: float = 0.5,
        version: int | None = None,
    ) -> edgellama.Moderation:
        """Let a Llama Guard (version 1 to 3) judge whether a message is safe.

        Arguments:
            conversation: Messages with ``role`` and ``content``; the last one is judged, the others
                are shown to the model. Or the text of a user's message.
            role: "user" or "assistant" judges the last message of that role, and leaves out what
                follows. None (the default) judges the last message, whoever wrote it.
            categories: What counts as unsafe, in place of the model's own categories: names by
                code, such as ``{"S1": "Spoilers"}``, or a list of names. None (the default) are
                the model's own.
            threshold: The verdict is "unsafe" from this probability of "unsafe" on, 0.5 by default.
            version: 1, 2 or 3, in case neither the file's chat template nor its name tells the
                version. None (the default) asks the file.

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
        judging = self._judging(
            conversation, role=role, categories=categories, threshold=threshold, version=version
        )
        return next(judging)

    @takes_what(moderate)
    async def moderate_async(self, *given: Any, **options: Any) -> edgellama.Moderation:
        """``moderate`` for event loops; cancelling the task ends what runs.

        Example: see ``moderate``.
        """
        from edgellama.generation.concurrency.async_items import AsyncItems

        items: AsyncItems[edgellama.Moderation, Judging] = AsyncItems(
            lambda: self._judging(*given, **options)
        )
        async for judged in items:
            return judged
        raise EdgellamaError("the judgement was cancelled")

    def _judging(
        self,
        conversation: object,
        *,
        role: object = None,
        categories: object = None,
        threshold: object = 0.5,
        version: int | None = None,
    ) -> Judging:
        from edgellama.generation.judging.moderation import Judging, ModerationRequest
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
