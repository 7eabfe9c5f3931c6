"""A model that continues many prompts at once.

``generation.batches`` runs them, as many together as memory allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

import edgellama
from edgellama.generation.argument_types import BatchPrompt, OnError
from edgellama.generation.concurrency.twins import takes_what
from edgellama.generation.text_options import BatchOptions
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.typing_backports import Unpack
from edgellama.sampling.presets import chat_sampling
from edgellama.session_model import SessionModel


class BatchModel(SessionModel):
    """An open model whose steps many texts share."""

    def generate_batch(
        self,
        prompts: Iterable[BatchPrompt | None],
        *,
        template: str | None = None,
        width: int | None = None,
        on_error: OnError | None = None,
        **options: Unpack[BatchOptions],
    ) -> edgellama.Batch:
        """Continue many prompts, several at once, and yield each text when it is finished.

        Leaving the loop early cancels the texts that still run.

        Arguments:
            prompts: Any iterable. It is read only as far as there is room, so millions of prompts
                take no more memory than ``width`` of them. A prompt is a text, a row of token ids,
                or a mapping such as ``{"prompt": "One,", "max_tokens": 8}``, or ``{"messages":
                [...]}`` for a chat; its other keys are options for this prompt alone. An iterable
                that has no prompt at the moment may yield None.
            template: Chat format of ``messages``: the name of a published one or Jinja source.
                None (the default) is the file's.
            width: How many texts are computed together at most, from 1. None (the default) is 64,
                or fewer, down to 32, if their keys and values would take more than a quarter of the
                free memory.
            on_error: Called as ``on_error(index, error)`` for prompts that cannot run, for example
                because they are longer than the context. None (the default) raises the first such
                error.
            options: BatchOptions: PromptOptions for all prompts, and ChatOptions such as ``tools``
                for ``messages``. Sampling options have their usual defaults; for ``messages``,
                those of ``chat``.

        Returns:
            An iterator of results in the order in which they finish; ``index`` is the number of the
            prompt. ``cancel`` ends it from any thread, ``close`` from its own.

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
        from edgellama.generation.batches.batch import Batch
        from edgellama.generation.batches.batch_prompts import BatchPrompts
        from edgellama.generation.batches.batch_width import BatchWidth
        from edgellama.quant.free_memory import available_memory_bytes

        if isinstance(prompts, (str, Mapping)):
            raise InvalidOptionError("prompts is one prompt; allowed: an iterable of prompts")
        if not isinstance(prompts, Iterable):
            raise InvalidOptionError(
                f"prompts is {shown(prompts)}; allowed: an iterable of prompts"
            )
        requests = BatchPrompts(
            self.tokenizer,
            cache(partial(self._chat_template, template)),
            chat_sampling(self.metadata),
            options,
            self.context_length,
        )
        return Batch(
            self._engine,
            self.tokenizer,
            (None if prompt is None else partial(requests.request, prompt) for prompt in prompts),
            width=BatchWidth.of(width, self.config, self._model.kv_type, available_memory_bytes()),
            context_length=self.context_length,
            on_error=on_error,
            line=self._line,
            speculation=self._speculation,
        )

    @takes_what(generate_batch)
    def generate_batch_async(self, *given: Any, **options: Any) -> edgellama.AsyncBatch:
        """``generate_batch`` for event loops; what is wrong is raised by the first await.

        Example: see AsyncBatch.
        """
        from edgellama.generation.batches.batch import AsyncBatch

        return AsyncBatch(lambda: self.generate_batch(*given, **options))
