"""Many generations at once: takes prompts, and yields finished texts in the order they end.

A text that ends makes room for the next prompt, so any number of prompts takes the memory of a few.
The scheduler decides which of their tokens share a step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.work import Work
from edgellama.engine.text_engine import TextEngine
from edgellama.generation.argument_types import OnError
from edgellama.generation.arguments import check_fits
from edgellama.generation.batches.batch_width import BatchWidth
from edgellama.generation.concurrency.async_items import AsyncItems
from edgellama.generation.concurrency.deadline import Deadline
from edgellama.generation.concurrency.generator_use import is_closed_now, next_of
from edgellama.generation.concurrency.waiting_line import Turn, WaitingLine
from edgellama.generation.decoding.decoding import Decoding
from edgellama.generation.decoding.prefill import NextTokens
from edgellama.generation.results import Generation
from edgellama.generation.speculation.speculation import Speculation
from edgellama.generation.text_request import Request, drafter_of
from edgellama.quant.errors import (
    ContextLengthError,
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
    TemplateError,
)
from edgellama.quant.process_bound import ProcessBound
from edgellama.text.tokenizer import Tokenizer

MakeRequest: TypeAlias = Callable[[], Request]
ERRORS_OF_PROMPTS = (ContextLengthError, InvalidOptionError, TemplateError)
"""What is wrong with a prompt itself, and not with the model or the engine."""


@dataclass
class _Running:
    """A generation with the number of its request, and what is being computed for it."""

    index: int
    decoding: Decoding
    deadline: Deadline
    work: Work

    def end(self) -> None:
        """Give back the memory of the generation."""
        self.deadline.call_off()
        self.decoding.cache.close()


class Batch(ProcessBound, Iterator[Generation]):
    """Generations with their ``index``, as they finish; up to ``width`` run at once.

    One thread iterates; any thread may cancel. Dropping the batch, or ``close``, cancels the texts
    that run.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     batch = llama.generate_batch(["One, two,", "A, b,"], max_tokens=2)
        ...     sorted(result.index for result in batch)
        [0, 1]
    """

    def __init__(
        self,
        engine: TextEngine,
        tokenizer: Tokenizer,
        requests: Iterable[MakeRequest | None],
        *,
        width: BatchWidth,
        context_length: int,
        on_error: OnError | None = None,
        line: WaitingLine | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """Check the options; nothing runs before the first result is asked for.

        ``requests`` gives a function for each prompt in turn, which makes its request and may
        raise what is wrong with it, or None if there is none at the moment. ``on_error`` hears
        of prompts that cannot run, with their numbers; without it the first ends the batch.
        ``line``: where the batch waits for its turn, as one text does.
        ``speculation``: what guesses ahead; None: nobody.
        """
        self.gives_way = engine.low_priority
        # The runner does not refer to this object, so that dropping the batch ends the generator.
        self._runner = _Runner(
            engine,
            tokenizer,
            iter(requests),
            width,
            context_length,
            on_error,
            Turn(WaitingLine() if line is None else line),
            speculation,
        )
        self._results = self._runner.results()

    @property
    def queue_position(self) -> int:
        """How many texts have to end before this one begins (see ``Llama.max_concurrent``)."""
        return self._runner.turn.position

    def __next__(self) -> Generation:
        return next_of(self._results, "batch")

    def cancel(self) -> None:
        """Ask all running texts to end. Iterating then raises GenerationCancelled."""
        self._runner.cancel_all()

    def close(self) -> None:
        """Cancel the texts that run and release their memory. Further calls do nothing.

        If another thread is inside a step, this only cancels; that thread then ends the batch.
        """
        if not is_closed_now(self._results):
            self.cancel()


class AsyncBatch(AsyncItems[Generation, Batch]):
    """Generations with their ``index`` for ``async for``, as they finish.

    It is started and ended like an AsyncStream. The prompts are read on its thread, too.

    Example:
        >>> import asyncio
        >>> from edgellama import Llama
        >>> async def main() -> list[int]:
        ...     with Llama("smollm2", context_length=512) as llama:
        ...         batch = llama.generate_batch_async(["One, two,", "A, b,"], max_tokens=2)
        ...         return sorted([result.index async for result in batch])
        >>> asyncio.run(main())
        [0, 1]
    """


@dataclass
class _Runner:
    """Keeps up to ``width`` generations running."""

    engine: TextEngine
    tokenizer: Tokenizer
    requests: Iterator[MakeRequest | None]
    width: BatchWidth
    context_length: int
    on_error: OnError | None
    turn: Turn
    speculation: Speculation | None
    cancel: CancelToken = field(default_factory=CancelToken)
    num_taken: int = 0
    running: list[_Running] = field(default_factory=list)

    def cancel_all(self) -> None:
        """Cancel what runs, and what would begin."""
        self.cancel.cancel()
        for running in self.running.copy():
            running.decoding.cancel.cancel()

    def results(self) -> Generator[Generation, None, None]:
        """Finished generations; closing it cancels the others."""
        scheduler = self.engine.scheduler
        try:
            self.turn.wait(self.cancel)
            while self._fill():
                self.turn.wait(self.cancel)
                scheduler.run_any([running.work for running in self.running], caller=self)
                for running in [running for running in self.running if running.work.is_over]:
                    if (result := self._result_after_step(running)) is not None:
                        yield result
        finally:
            scheduler.leave([running.work for running in self.running])
            for running in self.running:
                running.end()
            self.turn.leave()

    def _fill(self) -> bool:
        """Start requests until as many run as may; False when there are none."""
        while self._has_room:
            try:
                make_request = next(self.requests)
            except StopIteration:
                break
            if make_request is None:
                if self.running:
                    break
                self._check_cancelled()
                continue
            index = self.num_taken
            self.num_taken += 1
            with self._reported(index):
                self.running.append(self._started(index, make_request()))
            self._check_cancelled()
        return bool(self.running)

    @property
    def _has_room(self) -> bool:
        """Whether one more text may begin."""
        return self.width.has_room(
            [running.decoding.cache.context_length for running in self.running]
        )

    def _started(self, index: int, request: Request) -> _Running:
        """A generation with room for its own text, no more."""
        length = self.context_length
        check_fits(request.prompt, length)
        if request.max_tokens is not None:
            length = min(length, len(request.prompt) + request.max_tokens)
        cache = self.engine.new_cache(length)
        cancel = CancelToken()
        drafter = drafter_of(self.speculation, self.tokenizer, request, length, cancel)
        decoding = Decoding(self.engine, self.tokenizer, cache, request, cancel, drafter)
        step = decoding.next_tokens()
        assert step is not None
        work = self._work(decoding, step)
        return _Running(index, decoding, Deadline(cancel, request.timeout), work)

    def _result_after_step(self, running: _Running) -> Generation | None:
        """Continue a generation after its step; its result if that was the last one."""
        result, is_over = None, True
        with self._reported(running.index):
            is_over = not self._advance(running)
            if is_over:
                running.decoding.rest()
                result = replace(running.decoding.result(), index=running.index)
        if is_over:
            self.running.remove(running)
            running.end()
        return result

    def _advance(self, running: _Running) -> bool:
        """Take what was computed and ask for what is next; False at the end of the text."""
        decoding = running.decoding
        try:
            logits = running.work.result(self.engine.config.vocab_size)
        except GenerationCancelled:
            if decoding.cancel.reason != "timeout":
                raise
            decoding.stop_early()
            return False
        for _ in decoding.take(logits):
            pass
        step = decoding.next_tokens()
        if step is None:
            return False
        running.work = self._work(decoding, step)
        return True

    def _work(self, decoding: Decoding, step: NextTokens) -> Work:
        return self.engine.work(
            step.tokens,
            decoding.cache,
            logits=step.wanted,
            kept=step.kept,
            cancelled=decoding.cancel,
            progress=decoding.on_progress,
        )

    def _check_cancelled(self) -> None:
        if self.cancel.cancelled:
            raise GenerationCancelled("the batch was cancelled")

    @contextmanager
    def _reported(self, index: int) -> Iterator[None]:
        """Give the error of one prompt to the caller's ``on_error``, if there is one."""
        try:
            yield
        except EdgellamaError as error:
            if self.on_error is None and isinstance(error, ERRORS_OF_PROMPTS):
                raise error.within(f"prompt {index}") from None
            if self.on_error is None or isinstance(error, GenerationCancelled):
                raise
            self.on_error(index, error)
