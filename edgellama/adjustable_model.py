"""What may be changed about an open model at any time: threads, memory, how many texts run at once.

``open_model`` loads and closes the model.
"""

from __future__ import annotations

from edgellama.engine.engine import Engine
from edgellama.engine.text_engine import TextEngine
from edgellama.generation.concurrency.waiting_line import WaitingLine
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import is_true
from edgellama.quant.process_bound import ProcessBound

DRAFT_CACHE_BYTES = 1 << 28
DRAFT_CACHE_SHARE = 4
"""What a draft model may keep of the beginnings of earlier texts, and at most which part of all."""


class AdjustableModel(ProcessBound):
    """An engine, perhaps that of a draft model beside it, and what a user sets of both."""

    _engine: TextEngine
    _line: WaitingLine
    _own_draft: AdjustableModel | None
    """A draft model that was loaded with the model, and goes with it."""

    @property
    def cache_limit(self) -> int:
        """Bytes that the beginnings of earlier texts may take; less drops the oldest at once.

        A draft model that was loaded with the model has a part of them.
        """
        of_draft = 0 if self._own_draft is None else self._own_draft.cache_limit
        return self._engine_here("cache_limit").pool().limit_bytes + of_draft

    @cache_limit.setter
    def cache_limit(self, num_bytes: int) -> None:
        from edgellama.loading import check_cache_limit

        check_cache_limit(num_bytes, is_needed=True)
        engine = self._engine_here("cache_limit")
        of_draft = 0
        if self._own_draft is not None:
            of_draft = min(DRAFT_CACHE_BYTES, num_bytes // DRAFT_CACHE_SHARE)
            self._own_draft.cache_limit = of_draft
        engine.pool().limit_bytes = num_bytes - of_draft

    @property
    def cached_bytes(self) -> int:
        """Bytes that the beginnings of earlier texts take now."""
        of_draft = 0 if self._own_draft is None else self._own_draft.cached_bytes
        return self._engine_here("cached_bytes").pool().idle_bytes + of_draft

    @property
    def num_threads(self) -> int:
        """How many threads compute.

        Assign another number at any time; it is used from the next step on, and changes no text.
        """
        return self._engine_here("num_threads").num_threads

    @num_threads.setter
    def num_threads(self, number: int) -> None:
        self._engine_here("num_threads").num_threads = number
        if self._own_draft is not None:
            self._own_draft.num_threads = number

    @property
    def low_priority(self) -> bool:
        """Whether the threads that compute give way to other programs; may be assigned.

        A thread of yours that waits for a text also computes, and keeps its own priority; in an
        event loop there is no such thread. On macOS this changes nothing.
        """
        return self._engine.low_priority

    @low_priority.setter
    def low_priority(self, is_low: bool) -> None:
        is_true("low_priority", is_low)
        for engine in self._engines:
            engine.low_priority = is_low

    @property
    def idle_seconds(self) -> float | None:
        """After how long without a text the memory is given back; None is never."""
        return self._engine_here("idle_seconds").idle_seconds

    @idle_seconds.setter
    def idle_seconds(self, seconds: float | None) -> None:
        self._engine_here("idle_seconds").idle_seconds = seconds
        if self._own_draft is not None:
            self._own_draft.idle_seconds = seconds

    @property
    def is_loaded(self) -> bool:
        """Whether weights are mapped and threads run; if not, the next text loads the model."""
        return self._engine_here("is_loaded").is_loaded

    def unload(self) -> None:
        """Release all memory but that of open sessions; the next text loads the model again.

        Loading again takes as long as mapping the file. Beginnings that were kept from earlier
        texts are forgotten. Open sessions and conversations continue where they were.

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
        self._engine_here("unload").unload()
        if self._own_draft is not None:
            self._own_draft.unload()

    @property
    def max_concurrent(self) -> int | None:
        """How many texts may run at once; None is no limit. May be assigned at any time.

        Further texts wait in the order in which their first chunk was asked for, and their
        ``queue_position`` says how many have to end before. A batch counts as one text, and so
        does a call that embeds, ranks or judges texts. A text runs until its stream ends. If a
        thread or a task begins another text while its own streams take all places, it would wait
        for itself, so it gets an EdgellamaError.
        """
        return self._line.max_running

    @max_concurrent.setter
    def max_concurrent(self, most: int | None) -> None:
        self._line.max_running = most

    def _engine_here(self, wanted: str) -> Engine:
        """The engine whose weights and threads are on this machine, for what is ``wanted`` of it.

        InvalidOptionError where its layers run on stages, which have such things themselves.
        """
        if isinstance(self._engine, Engine):
            return self._engine
        raise InvalidOptionError(f"{wanted!r} is not there where a model runs on several stages")

    @property
    def _engines(self) -> tuple[TextEngine, ...]:
        """The engine, and that of a draft model that was loaded with it."""
        return (
            (self._engine,)
            if self._own_draft is None
            else (self._engine, *self._own_draft._engines)
        )
