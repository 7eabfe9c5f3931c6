"""A generation as an iterator that can be cancelled from any thread and never leaks.

It passes on the chunks of a decoding, and ends exactly once: at the last chunk, on an error, on
close, or when it is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from time import sleep
from types import GeneratorType
from typing import Protocol, cast

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.concurrency.deadline import Deadline
from edgellama.generation.concurrency.generator_use import is_closed_now, is_in_use
from edgellama.generation.concurrency.waiting_line import Turn
from edgellama.generation.results import Chunk, Generation
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.late_interrupt import LATE_INTERRUPT
from edgellama.quant.process_bound import ProcessBound

END_RETRY_S = 0.002


class Steps(Protocol):
    """What a stream hands out, such as a decoding."""

    def steps(self) -> Iterator[Chunk]:
        """A generator of the chunks."""
        ...

    def result(self) -> Generation:
        """The generation so far."""
        ...

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that were computed, and that are to be."""
        ...


class Stream(ProcessBound, Iterator[Chunk]):
    """The chunks of one text, computed as you ask for them.

    A context manager: leaving it early ends the generation as "cancelled". One thread iterates;
    any thread may cancel.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     with llama.stream("Once upon a time") as stream:
        ...         first = next(stream)
        >>> stream.result.finish_reason, stream.result.text == first.text
        ('cancelled', True)
    """

    def __init__(
        self,
        decoding: Steps,
        cancel: CancelToken,
        on_end: Callable[[Generation], None] | None = None,
        *,
        owner: object = None,
        turn: Turn | None = None,
        timeout: float | None = None,
        prompt: Sequence[int] = (),
        gives_way: bool = False,
    ) -> None:
        """``on_end`` is called once with the result, if there is one; ``owner`` is kept alive.

        ``turn`` is waited for before the first chunk. ``timeout``: seconds from now. ``prompt``
        is what the property says. ``gives_way``: whether threads of our own that iterate this
        run at low priority.
        """
        self.gives_way = gives_way
        self._owner = owner
        self._decoding = decoding
        self._cancel = cancel
        self._on_end = on_end
        self._steps = cast("GeneratorType[Chunk, None, None]", decoding.steps())
        self._thread: int | None = None
        self._ending = threading.RLock()
        self._result: Generation | None = None
        self._turn = turn
        self._deadline = Deadline(cancel, timeout)
        self._prompt = tuple(prompt)
        self._afterwards: Callable[[], None] | None = None
        self._failure = "failed with an error"
        # Last: from now on there is something to end.
        self._ended = False

    @property
    def result(self) -> Generation:
        """The whole generation; EdgellamaError while it runs and if it failed."""
        if self._result is None:
            state = self._failure if self._ended else "has not ended yet"
            raise EdgellamaError(f"no result: the generation {state}")
        return self._result

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens that the text follows."""
        return self._prompt

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """How many of the prompt's tokens are computed, and of how many; (0, 0) before."""
        return self._decoding.prefill_progress

    @property
    def queue_position(self) -> int:
        """How many texts have to end before this one begins (see ``Llama.max_concurrent``).

        It is 0 while the text runs, and until its first chunk is asked for.
        """
        return 0 if self._turn is None else self._turn.position

    @property
    def ended(self) -> bool:
        """Whether no further chunk will come."""
        return self._ended

    def is_inside(self, thread: int) -> bool:
        """Whether the thread with this number is computing a chunk now."""
        return self._thread == thread and not self._ended

    def cancel(self) -> None:
        """Ask the generation to end, which it does within one operation of the model."""
        self._cancel.cancel()

    def wait(self) -> Generation:
        """Run to the end and return the result; raises the same errors as iterating."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """End the generation and free its session.

        If another thread is inside a step, this only cancels; that thread then ends the stream.
        """
        if self._ended:
            return
        self._cancel.cancel()
        if not self._steps.gi_running:
            # A signal's handler may want it closed within the end of its last step.
            self._thread = threading.get_ident()
        if is_closed_now(self._steps):
            self._thread = None
            self._end(failed=False)

    def end(self, afterwards: Callable[[], None] | None = None) -> None:
        """Close, wait until a thread that is inside a step has left it, and call ``afterwards``.

        A signal handler that has interrupted this very step does not wait; ``afterwards`` is then
        called at the end of the step.
        """
        while not self._ended:
            self.close()
            if self.is_inside(threading.get_ident()):
                self._afterwards = afterwards
                return
            if not self._ended:
                sleep(END_RETRY_S)
        if afterwards is not None:
            afterwards()

    def _end_if_cancelled(self) -> None:
        """Where ``cancel`` was called, close it, and wait until another thread has left a step."""
        if not self._cancel.cancelled:
            return
        self.close()
        # A signal handler has interrupted the step, which cannot end before the handler does.
        if not self.is_inside(threading.get_ident()):
            self.end()

    def _lose_threads(self) -> None:
        """In a forked process: if another thread was inside a step, the text has ended with it."""
        self._ending = threading.RLock()
        if self._thread is not None and not self.is_inside(threading.get_ident()):
            self._ended = True
            self._failure = "was another thread's, which this forked process does not have"

    def __next__(self) -> Chunk:
        # The generator itself keeps other threads out: a lock could be left taken by Ctrl-C.
        try:
            if not self._steps.gi_running:
                self._thread = threading.get_ident()
            if self._turn is not None:
                self._turn.wait(self._cancel)
            chunk = next(self._steps)
            self._thread = None
            return chunk
        except StopIteration:
            self._end(failed=False)
            raise
        except BaseException as error:
            if is_in_use(error):
                raise EdgellamaError("this stream is being iterated by another thread") from None
            self._steps.close()
            # An interruption, such as Ctrl-C, keeps what was said; an error of a step does not.
            self._end(failed=isinstance(error, Exception))
            raise

    def __repr__(self) -> str:
        state = "running" if not self._ended else "failed"
        return f"<Stream {state if self._result is None else self._result.finish_reason}>"

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        is_interrupted = False
        try:
            # An __init__ that failed leaves nothing to end.
            if hasattr(self, "_ended"):
                self.close()
        except KeyboardInterrupt:
            self.close()
            is_interrupted = True
        if is_interrupted:
            # The objects that go with this one have finalizers of their own.
            self.__dict__.clear()
            LATE_INTERRUPT.comes  # noqa: B018

    def _end(self, *, failed: bool) -> None:
        with self._ending:
            if self._ended:
                return
            try:
                if not failed:
                    self._result = self._decoding.result()
                    if self._on_end is not None:
                        self._on_end(self._result)
            finally:
                self._ended = True
                self._deadline.call_off()
                if self._turn is not None:
                    self._turn.leave()
                if self._afterwards is not None:
                    self._afterwards()
