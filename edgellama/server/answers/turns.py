"""Work that is no text, such as embeddings: it waits for its turn as texts do.

It runs in a thread, and ends early if its client leaves. The endpoint that asks for it knows what
it computes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from edgellama.server.answers.leaving import Leaving
from edgellama.server.connections.wire import client_has_left, until_left

if TYPE_CHECKING:
    from starlette.requests import Request

    from edgellama.llama import Llama
    from edgellama.server.answers.state import ServerState

Result = TypeVar("Result")


@dataclass(frozen=True)
class TimedResult(Generic[Result]):
    """A result, and seconds that its model was waited for and that all took."""

    result: Result
    load_s: float
    total_s: float


async def in_turn(
    state: ServerState,
    request: Request,
    model: str | None,
    work: Callable[[Llama, Leaving], Result],
    keep_alive_s: float | None = None,
) -> TimedResult[Result]:
    """What ``work`` gives, in a thread, once it is its turn."""
    state.check_open(model)
    started = time.perf_counter()
    with leaving_of(state, request) as leaving, state.queue.place() as place:
        async with leased(state, leaving, model, keep_alive_s) as llama:
            load_s = time.perf_counter() - started
            await leaving.turn(place)
            result = await in_thread(llama, leaving, partial(work, llama, leaving))
    return TimedResult(result, load_s, time.perf_counter() - started)


@asynccontextmanager
async def leased(
    state: ServerState, leaving: Leaving, model: str | None, keep_alive_s: float | None = None
) -> AsyncIterator[Llama]:
    """A model for as long as this is open; it is waited for until the work is to end."""
    async with AsyncExitStack() as stack:
        lease = state.shelf.lease(model, keep_alive_s)
        yield await leaving.until(stack.enter_async_context(lease))


@contextmanager
def leaving_of(state: ServerState, request: Request) -> Iterator[Leaving]:
    """What tells work that its client has left, or that the server ends."""
    leaving = Leaving()
    state.works.add(leaving)
    watching = asyncio.create_task(_watch(request, leaving))
    try:
        yield leaving
    finally:
        watching.cancel()


async def in_thread(llama: Llama, leaving: Leaving, work: Callable[[], Result]) -> Result:
    """What ``work`` gives in a thread; texts that it encodes are given up once that is told."""

    def checked() -> Result:
        leaving.check()
        with llama.tokenizer.checked_by(leaving.check):
            return work()

    return await asyncio.to_thread(checked)


async def _watch(request: Request, leaving: Leaving) -> None:
    await until_left(request.receive)
    leaving.stop(client_has_left())
