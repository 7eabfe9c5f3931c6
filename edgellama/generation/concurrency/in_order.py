"""Runs many works at once and returns their results in order, for one pass over each text.

Only as many texts are begun as fill a few steps, so any number of them takes the memory of a few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.concurrency.generator_use import is_closed_now, next_of
from edgellama.generation.concurrency.waiting_line import Turn
from edgellama.quant.given_values import check_function
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.engine.pages.text_cache import TextCache
    from edgellama.engine.scheduling.work import Work
    from edgellama.engine.text_engine import TextEngine
    from edgellama.generation.concurrency.waiting_line import WaitingLine

MOST_TEXTS = 128
"""Texts at once: each has a page of keys and values at least."""
STEPS_AT_ONCE = 2
"""Tokens of the texts at once, in long steps: so that the next one is full, too."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Begun(Generic[Result]):
    """A text that is being computed; ``result`` makes of its work what the caller gets."""

    work: Work
    cache: TextCache
    result: Callable[[], Result]


BegunTexts: TypeAlias = Generator[Begun[Result], None, None]


class InOrder(Iterator[Result]):
    """Results of texts, in the order in which these are begun; one thread iterates.

    Any thread may cancel. Dropping it, or ``close``, ends what runs and gives its memory back.
    """

    def __init__(
        self,
        engine: TextEngine,
        line: WaitingLine,
        begin: Callable[[CancelToken], BegunTexts[Result]],
    ) -> None:
        """``begin`` gives texts that are begun as they are asked for; nothing runs before.

        ``line``: where they wait for their turn, all of them as one text does.
        """
        self.gives_way = engine.low_priority
        self._cancel = CancelToken()
        self._turn = Turn(line)
        # The generator knows nothing of this object, so that dropping it ends the generator.
        self._results = _results(engine, begin(self._cancel), self._turn, self._cancel)

    @property
    def queue_position(self) -> int:
        """How many texts have to end before these begin, see ``Llama.max_concurrent``."""
        return self._turn.position

    def __next__(self) -> Result:
        return next_of(self._results, "iterator")

    def cancel(self) -> None:
        """Ask all running texts to end. Iterating then raises GenerationCancelled."""
        self._cancel.cancel()

    def close(self) -> None:
        """End what runs and give its memory back; more calls do nothing.

        While another thread is inside a step this only cancels; that thread ends it.
        """
        if not is_closed_now(self._results):
            self.cancel()


def with_progress(
    results: Iterable[Result], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Result]:
    """The same results; ``progress`` hears of (done, total)."""
    check_function("progress", progress, "two numbers")
    for done, result in enumerate(results, start=1):
        yield result
        if progress is not None:
            progress(done, total)


class _Caller:
    """Stands for the caller that wants the works, as long as it exists."""


def _results(
    engine: TextEngine, begun: BegunTexts[Result], turn: Turn, cancel: CancelToken
) -> Generator[Result, None, None]:
    scheduler, running, caller = engine.scheduler, deque[Begun[Result]](), _Caller()
    try:
        turn.wait(cancel)
        while _fill(running, begun, STEPS_AT_ONCE * engine.step_tokens):
            turn.wait(cancel)
            if running[0].work.is_over:
                first = running.popleft()
                try:
                    yield first.result()
                finally:
                    first.cache.close()
            else:
                left = [each.work for each in running if not each.work.is_over]
                scheduler.run_any(left, caller=caller)
    finally:
        scheduler.leave([each.work for each in running])
        for each in running:
            each.cache.close()
        begun.close()
        turn.leave()


def _fill(running: deque[Begun[Result]], begun: BegunTexts[Result], most: int) -> bool:
    """Begin texts until ``most`` tokens are computed together; False when there is nothing left."""
    room = most - sum(each.work.num_left for each in running)
    while room > 0 and len(running) < MOST_TEXTS and (each := next(begun, None)) is not None:
        running.append(each)
        room -= each.work.num_left
    return bool(running)
