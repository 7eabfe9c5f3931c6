"""Servers on a free port, in a thread of the test or in a process of their own; their clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def served(
    model: Path, *arguments: str, stdin: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A server on a free port, and the facts that it prints; killed if it does not end itself."""
    command = [sys.executable, "-m", "edgellama", "serve", str(model), "--only", "--port", "0"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def client_of(facts: dict[str, Any]) -> httpx.Client:
    """A client with the key that the server printed."""
    headers = {"authorization": f"Bearer {facts['token']}"}
    return httpx.Client(base_url=facts["url"], headers=headers, timeout=60, verify=False)
