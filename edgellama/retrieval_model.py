"""A model that finds texts: their vectors, and documents in the order of a query.

``generation.judging`` computes both, in ``embedding`` and ``reranking``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import edgellama
from edgellama.batch_model import BatchModel
from edgellama.generation.concurrency.in_order import InOrder
from edgellama.quant.given_values import whole_or_none
from edgellama.quant.typing_backports import Unpack

if TYPE_CHECKING:
    from edgellama.generation.concurrency.async_items import AsyncItems


class RetrievalModel(BatchModel):
    """A model that reads texts for a search."""

    def embed(
        self,
        texts: str | Iterable[str | Sequence[int]],
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[edgellama.EmbedOptions],
    ) -> npt.NDArray[np.float32]:
        """Turn texts into vectors (the states after the last norm, pooled), several together.

        Arguments:
            texts: One text or several, each a string or a row of token ids.
            progress: Called as ``progress(done, total)`` with texts. None (the default) is nobody.
            options: EmbedOptions for all texts, such as ``pooling="last"``.

        Returns:
            An array of float32 (texts, width), in the order of the texts, also for a single text.

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
        from edgellama.generation.concurrency.in_order import with_progress
        from edgellama.generation.judging.embedding import as_rows, as_texts

        all_texts = as_texts(texts)
        found = with_progress(self.embed_each(all_texts, **options), len(all_texts), progress)
        return as_rows(found, self.config.embedding_length)

    async def embed_async(
        self,
        texts: str | Iterable[str | Sequence[int]],
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[edgellama.EmbedOptions],
    ) -> npt.NDArray[np.float32]:
        """``embed`` for event loops; cancelling the task ends what runs.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     asyncio.run(llama.embed_async(["one", "two"])).shape
            (2, 576)
        """
        from edgellama.generation.concurrency.async_items import AsyncItems, gathered
        from edgellama.generation.judging.embedding import as_rows, as_texts

        all_texts = as_texts(texts)
        items: AsyncItems[edgellama.Embedding, InOrder[edgellama.Embedding]] = AsyncItems(
            lambda: self.embed_each(all_texts, **options)
        )
        found = await gathered(items, len(all_texts), progress)
        return as_rows(found, self.config.embedding_length)

    def embed_each(
        self, texts: Iterable[str | Sequence[int]], **options: Unpack[edgellama.EmbedOptions]
    ) -> InOrder[edgellama.Embedding]:
        """Turn texts into vectors one after the other, so that millions take little memory.

        Arguments:
            texts: Any iterable; it is read only as far as there is room.
            options: EmbedOptions for all texts, such as ``pooling="last"``.

        Returns:
            An iterator of embeddings with counts of tokens, in the order of the texts. ``cancel``
            ends it from any thread; ``close``, or leaving the loop, from its own.

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
        from edgellama.generation.judging.embedding import Embedder, HowToEmbed

        self._check_open()
        adapters = self._engine.adapters.adapter_set(options.get("adapters"))
        how = HowToEmbed.of(options, self.metadata)
        return Embedder(
            self._engine, self.tokenizer, self.context_length, how, adapters, self._line
        ).each(texts)

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[edgellama.RerankOptions],
    ) -> tuple[edgellama.Ranked, ...]:
        """Order documents by how well they answer a query: how probably the model says yes to each.

        Arguments:
            query: A question, or a description of what you look for.
            documents: Texts; several are computed together.
            top_n: Return only this many of the best, from 1. None (the default) is all.
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
        from edgellama.generation.concurrency.in_order import with_progress
        from edgellama.generation.judging.reranking import as_documents, best_first

        texts, best = as_documents(documents), whole_or_none("top_n", top_n, 1)
        return best_first(
            with_progress(self._ranked(query, texts, options), len(texts), progress), best
        )

    async def rerank_async(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[edgellama.RerankOptions],
    ) -> tuple[edgellama.Ranked, ...]:
        """``rerank`` for event loops; cancelling the task ends what runs.

        Example:
            >>> import asyncio
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     len(asyncio.run(llama.rerank_async("Fruit?", ["An apple.", "A car."])))
            2
        """
        from edgellama.generation.concurrency.async_items import AsyncItems, gathered
        from edgellama.generation.judging.reranking import as_documents, best_first

        texts, best = as_documents(documents), whole_or_none("top_n", top_n, 1)
        items: AsyncItems[edgellama.Ranked, InOrder[edgellama.Ranked]] = AsyncItems(
            lambda: self._ranked(query, texts, options)
        )
        return best_first(await gathered(items, len(texts), progress), best)

    def _ranked(
        self, query: str, documents: Sequence[str], options: edgellama.RerankOptions
    ) -> InOrder[edgellama.Ranked]:
        from edgellama.generation.judging.rank_prompt import HowToRank, RankPrompt, own_prompt
        from edgellama.generation.judging.reranking import Reranker
        from edgellama.text.chat_template import load_chat_template

        self._check_open()
        how = HowToRank.of(options)
        chat, template = options.get("chat"), options.get("template")
        text, chosen = how.prompt, None
        if template is not None or chat:
            chosen = self._chat_template(template)
        elif text is None and (own := own_prompt(self._file.metadata)) is not None:
            text = own
        elif chat is None:
            chosen = load_chat_template(self._file.metadata, self.tokenizer)
        prompt = RankPrompt(self.tokenizer, query, text, chosen)
        adapters = self._engine.adapters.adapter_set(options.get("adapters"))
        return Reranker(self._engine, prompt, self.context_length, how, adapters, self._line).each(
            documents
        )
