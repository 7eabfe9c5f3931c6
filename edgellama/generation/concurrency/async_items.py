"""What event loops iterate: a stream or a batch, whose next item another thread fetches.

Cancelling the task that waits ends the step; so do ``aclose`` and dropping the object.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from edgellama.engine.running.thread_priority import lower_priority
from edgellama.generation.concurrency.worker import Worker
from edgellama.quant.given_values import check_function
from edgellama.quant.process_bound import ProcessBound
from edgellama.quant.typing_backports import Self

if TYPE_CHECKING:
    import asyncio


Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Result = TypeVar("Result")


class Source(Protocol[Item_co]):
    """What is iterated: a stream, a batch."""

    @property
    def gives_way(self) -> bool:
        """Whether the thread that iterates it, if it is ours, is of low priority."""
        ...

    def __next__(self) -> Item_co:
        """The next item; StopIteration at the end."""
        ...

    def cancel(self) -> None:
        """Ask for the end, from any thread."""
        ...

    def close(self) -> None:
        """End it, from the thread that iterates."""
        ...


SourceType = TypeVar("SourceType", bound=Source[Any])


class AsyncItems(ProcessBound, AsyncIterator[Item], Generic[Item, SourceType]):
    """Items of a source that is made, iterated and closed on a thread of its own."""

    def __init__(self, make: Callable[[], SourceType]) -> None:
        """``make`` is called for the first item, on that thread; its errors come there, too."""
        self._make = make
        self._source: SourceType | None = None
        self._worker = Worker()
        self._is_cancelled = self._is_over = False

    @property
    def ended(self) -> bool:
        """Whether it has ended, so that nothing more will come."""
        return self._is_over

    def cancel(self) -> None:
        """Ask for the end, from any thread. Callers who wait get what there is."""
        self._is_cancelled = True
        if self._source is not None:
            self._source.cancel()

    async def aclose(self) -> None:
        """Cancel, and wait until the last step has ended. Further calls do nothing."""
        if (closing := self._shut()) is not None:
            await _settled(closing)

    async def __anext__(self) -> Item:
        if self._is_over:
            raise StopAsyncIteration
        items = await self._ask(self._next_item)
        if not items:
            self._end()
            raise StopAsyncIteration
        return items[0]

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if hasattr(self, "_is_over"):
            self._abandon()

    async def _ask(self, call: Callable[[], Result]) -> Result:
        """What ``call`` returns on the worker's thread; a cancelled task ends everything."""
        from asyncio import CancelledError

        answer = self._worker.ask(call)
        try:
            await _settled(answer)
        except CancelledError:
            # The step ends first, so that what was in use is free for code that catches this.
            await _settled(self._shut() or answer)
            raise
        except BaseException:
            self._abandon()
            raise
        try:
            return answer.result()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self._is_over = True
        self._worker.close()

    def _shut(self) -> asyncio.Future[None] | None:
        """Cancel and close; what tells when that is done, None if there was nothing to do."""
        if self._is_over:
            return None
        self.cancel()
        closing = self._worker.ask(self._close_source) if self._worker.is_running else None
        self._end()
        return closing

    def _abandon(self) -> None:
        """The same where nobody can wait for it."""
        if self._is_over:
            return
        self.cancel()
        if self._source is not None:
            self._worker.tell(self._source.close)
        self._end()

    def _made(self) -> SourceType:
        source = self._source
        if source is None:
            source = self._source = self._make()
            if source.gives_way:
                lower_priority((threading.get_native_id(),))
            if self._is_cancelled:
                source.cancel()
        return source

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()

    def _next_item(self) -> Sequence[Item]:
        """One item, or none at the end: a future takes no StopIteration."""
        try:
            return (next(self._made()),)
        except StopIteration:
            return ()


async def gathered(
    items: AsyncItems[Item, Any],
    total: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Item]:
    """All items; ``progress`` hears of (done, total). Cancelling the task ends what runs."""
    check_function("progress", progress, "two numbers")
    found = []
    async with items:
        async for item in items:
            found.append(item)
            if progress is not None:
                progress(len(found), total)
    return found


async def _settled(future: asyncio.Future[Any]) -> None:
    """Wait for a future, which being cancelled here does not cancel."""
    from asyncio import wait

    await wait([future])
