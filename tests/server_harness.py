"""A server in a thread of the test's own process, on a free port, and what clients get from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from edgellama.server.answers.state import ServerState
from edgellama.server.application import Watched, make_application
from edgellama.server.connections.connections import guarded_connection
from edgellama.server.run import DrainingServer, open_sockets
from edgellama.server.settings import ServerSettings


class RunningServer:
    """A server that takes requests at ``url``; ``state`` is its inside."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._ready = threading.Event()
        self._sockets = open_sockets(settings.host, 0)
        self.port = self._sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._application = make_application(settings)
        assert isinstance(self._application, Watched)
        config = uvicorn.Config(
            self._application,
            http=guarded_connection(settings.limits),
            ws="none",
            lifespan="on",
            log_config=None,
            timeout_graceful_shutdown=int(settings.drain_s + 5),
        )
        self.server = DrainingServer(config, self._application, settings, self._ready.set)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self._ready.wait(60)

    def _run(self) -> None:
        asyncio.run(self.server.live(self._sockets, None, False))

    @property
    def state(self) -> ServerState:
        """What its requests share."""
        state: ServerState = self._application.inner.state.server  # type: ignore[union-attr]
        return state

    def client(self, **options: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **options)

    def stop(self) -> None:
        """Tell it to end, and wait."""
        self.server._state.is_ending = True
        loop = self.server.servers[0].get_loop()
        loop.call_soon_threadsafe(self.server.end, "the test is over")
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextmanager
def running_server(settings: ServerSettings) -> Iterator[RunningServer]:
    """A server for as long as this is open."""
    server = RunningServer(settings)
    try:
        yield server
    finally:
        server.stop()


def raw_answer(server: RunningServer, data: bytes) -> bytes:
    """All that a server answers to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        answer = b""
        # A reset: the server did not read all that was sent.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
    return answer


def sse_events(text: str) -> list[tuple[str | None, Any]]:
    """Events of a stream as (name, content); "[DONE]" stays text, comments are left out."""
    events: list[tuple[str | None, Any]] = []
    for block in text.split("\n\n"):
        name, data = None, None
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line[len("event: ") :]
            elif line.startswith("data: "):
                data = line[len("data: ") :]
        if data is not None:
            events.append((name, data if data == "[DONE]" else json.loads(data)))
    return events
