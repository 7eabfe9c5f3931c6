"""A thread that runs an event loop's calls, one after another, so that the loop never waits.

``async_stream`` knows the calls, and what to do with their results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from edgellama.generation.concurrency.caller import context_of_task
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    import asyncio

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Call:
    """A call, and the future of a loop that its result goes to, if any."""

    function: Callable[[], Any]
    future: asyncio.Future[Any] | None = None

    def make(self) -> bool:
        """Make the call and tell; False if the loop was closed meanwhile, so that nobody hears."""
        value, error = None, None
        try:
            value = self.function()
        except BaseException as raised:
            error = raised
        if self.future is not None:
            try:
                self.future.get_loop().call_soon_threadsafe(_settle, self.future, value, error)
            except RuntimeError:
                return False
        return True


def _settle(future: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
        future.exception()  # The caller may be gone, which asyncio need not log.


class Worker:
    """A thread for the calls of one user; it starts with the first, and sleeps between them.

    ``close`` ends it after the calls that were asked for. It holds nothing but these calls.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def is_running(self) -> bool:
        """Whether there is a thread that will make what is asked for."""
        return self._thread is not None and not self._closed

    def ask(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """What ``function`` will have returned, for the running loop. No StopIteration."""
        # A caller in an event loop has imported asyncio; others need not wait for that.
        import asyncio

        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        context = context_of_task(asyncio.current_task())
        self._add(_Call(partial(context.run, function), future))
        return future

    def tell(self, function: Callable[[], object]) -> None:
        """Call ``function`` when its turn comes; nobody hears what it returns or raises."""
        if self.is_running:
            self._calls.put(_Call(function))

    def close(self) -> None:
        """No more calls; more of this do nothing."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)

    def _add(self, call: _Call) -> None:
        if self._thread is None:
            thread = threading.Thread(
                target=_serve, args=(self._calls,), name="edgellama-async", daemon=True
            )
            thread.start()
            self._thread = thread
        self._calls.put(call)


def _serve(calls: SimpleQueue[_Call | None]) -> None:
    # A name for a call would keep it, and its model, alive while the thread sleeps.
    while _made(calls.get()):
        pass


def _made(call: _Call | None) -> bool:
    return call is not None and call.make()
