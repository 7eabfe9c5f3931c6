"""``serve``'s application without a socket: takes whole requests, returns the messages of answers.

Both are plain values of ASGI, which any transport can carry. ``ray_serve`` chooses the application
for a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from edgellama.server.application import Watched, make_application
from edgellama.server.settings import ServerSettings

SCOPE_KEYS = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string"),
    *("root_path", "headers", "client", "server"),
)
OF_PAGES = frozenset({b"origin", b"sec-fetch-site", b"sec-fetch-mode"})
"""Headers by which browsers tell which page asks, and how."""


def plain_scope(scope: Mapping[str, Any]) -> dict[str, Any]:
    """What of a request's scope can be sent, which is what the application reads.

    Without what tells of a page: which ones may call was decided where the request came in.
    """
    plain = {key: scope[key] for key in SCOPE_KEYS if key in scope}
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in OF_PAGES]
    return {**plain, "headers": headers}


class ServedApplication:
    """Models behind the protocols of ``edgellama serve``."""

    def __init__(self, settings: ServerSettings) -> None:
        application = make_application(settings)
        assert isinstance(application, Watched)
        self._application = application
        self._settings = settings
        self._life = AsyncExitStack()
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load the models that were named; raises what they cannot be loaded for."""
        inner = self._application.inner
        await self._life.enter_async_context(inner.router.lifespan_context(inner))
        for name in self._settings.models:
            async with inner.state.server.shelf.lease(name):
                pass

    async def stop(self) -> None:
        """Release everything; answers that still run end with an error."""
        await self._life.aclose()

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[dict[str, Any]]:
        """The messages of a request's answer. Closing it tells that the client has left."""
        messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        left = asyncio.Event()
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            for request in requests:
                return request
            await left.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._application(scope, receive, messages.put)  # type: ignore[arg-type]
            finally:
                messages.put_nowait(None)

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            while (message := await messages.get()) is not None:
                yield message
            await task
        finally:
            left.set()
