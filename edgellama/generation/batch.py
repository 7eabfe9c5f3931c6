"""Many generations at once: prompts in, finished texts out, in the order in which they end.

Who ends makes room for the next prompt, so that any number of them takes the memory of a few.
Which of their tokens share a step is the scheduler's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgellama.engine.cancellation import CancelToken
from edgellama.generation.decoding import Decoding, Request
from edgellama.generation.results import Generation
from edgellama.generation.session import check_fits
from edgellama.quant.errors import EdgellamaError, InvalidOptionError

if TYPE_CHECKING:
    from edgellama.engine.engine import Engine
    from edgellama.engine.work import Work
    from edgellama.text.tokenizer import Tokenizer

DEFAULT_WIDTH = 32
"""Texts at once: most of what there is to gain, for keys and values of so many texts."""
OnError = Callable[[int, EdgellamaError], None]


@dataclass
class _Running:
    """A generation with the number of its request, and what is being computed for it."""

    index: int
    decoding: Decoding
    work: Work


class Batch:
    """Runs requests, up to ``width`` at once.

    ``requests`` gives a function for each prompt in turn, which makes its request and may raise
    what is wrong with it. ``on_error`` hears of prompts that cannot run, with their numbers;
    without it the first of them ends the batch.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        requests: Iterator[Callable[[], Request]],
        *,
        width: int,
        context_length: int,
        on_error: OnError | None = None,
    ) -> None:
        if width < 1:
            raise InvalidOptionError(f"width is {width}; allowed: at least 1")
        self._engine = engine
        self._tokenizer = tokenizer
        self._requests = enumerate(requests)
        self._width = width
        self._context_length = context_length
        self._on_error = on_error
        self._cancel = CancelToken()
        self._running: list[_Running] = []

    def results(self) -> Iterator[Generation]:
        """Generations with their ``index``, as they finish; closing it cancels the others."""
        scheduler = self._engine.scheduler
        try:
            while self._fill():
                scheduler.run_any([running.work for running in self._running])
                for running in [running for running in self._running if running.work.is_over]:
                    if not self._advance(running):
                        self._running.remove(running)
                        yield self._finished(running)
        finally:
            scheduler.leave([running.work for running in self._running])
            for running in self._running:
                running.decoding.cache.close()

    def _fill(self) -> bool:
        """Start requests until as many run as may; False when there are none."""
        while len(self._running) < self._width:
            index, make_request = next(self._requests, (0, None))
            if make_request is None:
                break
            with self._reported(index):
                self._running.append(self._started(index, make_request()))
        return bool(self._running)

    def _started(self, index: int, request: Request) -> _Running:
        """A generation with room for its own text, no more."""
        length = self._context_length
        check_fits(request.prompt, length)
        if request.max_tokens is not None:
            length = min(length, len(request.prompt) + request.max_tokens)
        cache = self._engine.new_cache(length)
        decoding = Decoding(self._engine, self._tokenizer, cache, request, self._cancel)
        tokens = decoding.next_tokens()
        assert tokens is not None
        return _Running(index, decoding, self._engine.work(tokens, cache, cancelled=self._cancel))

    def _advance(self, running: _Running) -> bool:
        """Take what was computed and ask for what is next; False at the end of the text."""
        decoding = running.decoding
        decoding.take(running.work.result(self._engine.config.vocab_size)[0])
        tokens = decoding.next_tokens()
        if tokens is None:
            return False
        running.work = self._engine.work(tokens, decoding.cache, cancelled=self._cancel)
        return True

    def _finished(self, running: _Running) -> Generation:
        running.decoding.rest()
        running.decoding.cache.close()
        return replace(running.decoding.result(), index=running.index)

    @contextmanager
    def _reported(self, index: int) -> Iterator[None]:
        """What is wrong with one prompt goes to who wants to hear it."""
        try:
            yield
        except EdgellamaError as error:
            if self._on_error is None:
                raise
            self._on_error(index, error)
