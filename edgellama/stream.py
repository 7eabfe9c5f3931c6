"""A generation as an iterator that can be cancelled from any thread and never leaks.

It hands out the chunks of a decoding and makes sure that its session is given back exactly
once: at the end, on an error, on close, or when the stream is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, cast

from edgellama.generation import Chunk, Generation
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.cancellation import CancelToken
    from edgellama.decoding import Decoding


class Stream(Iterator[Chunk]):
    """Chunks of one generation, made as they are asked for.

    A context manager: leaving it early ends the generation as "cancelled". One thread iterates;
    any thread may cancel.
    """

    def __init__(
        self,
        decoding: Decoding,
        cancel: CancelToken,
        on_end: Callable[[Generation | None], None],
    ) -> None:
        """``on_end`` is called once, with the result or, after an error, None."""
        self._decoding = decoding
        self._cancel = cancel
        self._on_end = on_end
        self._steps = cast("Generator[Chunk, None, None]", decoding.steps())
        self._in_use = threading.Lock()
        self._ended = False
        self._result: Generation | None = None

    @property
    def result(self) -> Generation:
        """The whole generation; EdgellamaError while it runs and if it failed."""
        if self._result is None:
            state = "failed with an error" if self._ended else "has not ended yet"
            raise EdgellamaError(f"no result: the generation {state}")
        return self._result

    def cancel(self) -> None:
        """Ask the generation to end; it does within one operation of the model."""
        self._cancel.cancel()

    def wait(self) -> Generation:
        """Run to the end and return the result."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """End the generation and give its session back.

        While another thread is inside a step this only cancels; that thread ends the stream.
        """
        if self._ended:
            return
        self._cancel.cancel()
        if self._in_use.acquire(blocking=False):
            try:
                self._steps.close()
                self._end(failed=False)
            finally:
                self._in_use.release()

    def __next__(self) -> Chunk:
        if not self._in_use.acquire(blocking=False):
            raise EdgellamaError("this stream is being iterated by another thread")
        try:
            return next(self._steps)
        except StopIteration:
            self._end(failed=False)
            raise
        except BaseException:
            self._end(failed=True)
            raise
        finally:
            self._in_use.release()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # An __init__ that failed leaves nothing to end.
        if hasattr(self, "_ended"):
            self.close()

    def _end(self, *, failed: bool) -> None:
        if self._ended:
            return
        self._ended = True
        if not failed:
            self._result = self._decoding.result()
        self._on_end(self._result)
