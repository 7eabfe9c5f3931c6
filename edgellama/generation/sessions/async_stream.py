"""A stream for event loops: the chunks of one generation for ``async for``, and its result.

``async_items`` has the thread that computes, and ends it when a task is cancelled.
"""

from __future__ import annotations

from edgellama.generation.concurrency.async_items import AsyncItems
from edgellama.generation.results import Chunk, Generation
from edgellama.generation.sessions.stream import Stream
from edgellama.quant.errors import EdgellamaError


class AsyncStream(AsyncItems[Chunk, Stream]):
    """The chunks of one text for ``async for``, computed as you ask for them.

    The event loop never waits, because the stream has its own thread. Cancelling the task that
    waits for a chunk, leaving ``async with``, or dropping the stream ends the text within one
    operation of the model. Errors of the call are raised by the first ``await``.

    Example:
        >>> import asyncio
        >>> from edgellama import Llama
        >>> async def main() -> str:
        ...     with Llama("smollm2", context_length=512) as llama:
        ...         async with llama.stream_async("Once upon a time", max_tokens=3) as stream:
        ...             texts = [chunk.text async for chunk in stream]
        ...         return stream.result.finish_reason
        >>> asyncio.run(main())
        'length'
    """

    @property
    def result(self) -> Generation:
        """The whole generation; EdgellamaError while it runs and if it failed."""
        if self._source is None:
            raise EdgellamaError("no result: the generation has not begun")
        return self._source.result

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """How many of the prompt's tokens are computed, and of how many; (0, 0) before."""
        return (0, 0) if self._source is None else self._source.prefill_progress

    @property
    def queue_position(self) -> int:
        """How many texts have to end before this one begins (see ``Llama.max_concurrent``)."""
        return 0 if self._source is None else self._source.queue_position

    async def wait(self) -> Generation:
        """Run to the end and return the result; raises the same errors as iterating."""
        if not self._is_over:
            await self._ask(lambda: self._made().wait())
            self._end()
        return self.result
