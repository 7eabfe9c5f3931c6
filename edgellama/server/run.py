"""Starts and ends a server: sockets, signals, and what may still finish.

When a server is told to end, its answers may run on for a while. The rest are stopped, and their
clients are told why.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import uvicorn

from edgellama.quant.errors import EdgellamaError
from edgellama.server.application import Watched, make_application
from edgellama.server.connections.connections import guarded_connection
from edgellama.server.connections.open_files import (
    BACKLOG,
    room_for_connections,
    tell_seldom_of_no_room,
)
from edgellama.server.connections.parent import when_parent_ends
from edgellama.server.settings import ServerSettings

if TYPE_CHECKING:
    from edgellama.server.answers.state import ServerState

logger = logging.getLogger(__name__)

LOOPBACKS = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
ENDING_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
TICK_S = 1.0
GRACE_S = 5.0
"""What the last words of cancelled answers may take."""
CUT_S = 0.05
"""What the work for clients may take to hear that they have been cut off."""


def with_token(settings: ServerSettings) -> ServerSettings:
    """The settings with a key that nobody else knows, if they have none."""
    if settings.api_keys:
        return settings
    return replace(settings, api_keys=(secrets.token_urlsafe(24),))


def serve(
    settings: ServerSettings,
    *,
    on_ready: Callable[[str, int], None],
    parent_pid: int | None = None,
    until_stdin_ends: bool = False,
) -> None:
    """Serve until a signal, the parent's end or standard input's ends it.

    ``on_ready(host, port)`` is called once the models are loaded. EdgellamaError if the port cannot
    be had, and whatever a model cannot be loaded for.
    """
    sockets = open_sockets(settings.host, settings.port)
    port = sockets[0].getsockname()[1]
    wanted = settings.limits
    limits = replace(wanted, max_connections=room_for_connections(wanted.max_connections))
    settings = replace(settings, limits=limits)
    application = make_application(settings)
    assert isinstance(application, Watched)
    config = uvicorn.Config(
        application,
        http=guarded_connection(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.drain_s + GRACE_S) + 2,
    )
    server = DrainingServer(config, application, settings, lambda: on_ready(settings.host, port))
    try:
        asyncio.run(server.live(sockets, parent_pid, until_stdin_ends))
    finally:
        for listener in sockets:
            listener.close()


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which waits for nothing while it is idle and lets answers finish."""

    should_exit: bool
    force_exit: bool

    def __init__(
        self,
        config: uvicorn.Config,
        application: Watched,
        settings: ServerSettings,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._application = application
        self._settings = settings
        self._on_ready = on_ready
        self._told = asyncio.Event()
        self._failure: Exception | None = None
        self._is_ready = False

    async def live(
        self, sockets: list[socket.socket], parent_pid: int | None, until_stdin_ends: bool
    ) -> None:
        """Serve until something ends it."""
        loop = asyncio.get_running_loop()
        tell_seldom_of_no_room(loop)
        watchers = []
        if parent_pid is not None:
            watchers.append(loop.create_task(self._end_with_parent(parent_pid)))
        if until_stdin_ends:
            watch_stdin(loop, lambda: self.end("standard input has ended"))
        try:
            await self.serve(sockets)
        finally:
            for watcher in watchers:
                watcher.cancel()
        if self._failure is not None:
            raise self._failure

    def end(self, reason: str) -> None:
        """Begin to end; a second time, at once."""
        if self.should_exit:
            self.force_exit = True
            self._stop_all()
        else:
            logger.info("ending: %s", reason)
            if not self._is_ready:
                self._stop_all()  # Nobody has an answer yet; a model may take minutes to load.
        self.should_exit = True
        self._told.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and load the models that were named; requests wait for them meanwhile."""
        await super().startup(sockets)
        try:
            for name in self._settings.models:
                async with self._state.shelf.lease(name):
                    pass
        except Exception as error:
            if not self.should_exit:
                self._failure = error
            self.should_exit = True

    async def main_loop(self) -> None:
        """Wait for the end; now and then uvicorn renews its Date header."""
        self._is_ready = True
        self._on_ready()
        while not await self.on_tick(0):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._told.wait(), TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, let answers finish, and end what has not after a while."""
        self._state.is_ending = True
        loop, drain_s = asyncio.get_running_loop(), self._settings.drain_s
        late = [
            loop.call_later(drain_s, self._stop_all),
            loop.call_later(drain_s + GRACE_S, self._cut_off),
        ]
        try:
            await super().shutdown(sockets)
        finally:
            for timer in late:
                timer.cancel()
        if self.force_exit:
            # uvicorn leaves this out then; models, threads and files are let go in any case.
            await self.lifespan.shutdown()
            self._cut_off()
            await asyncio.sleep(CUT_S)

    def _stop_all(self) -> None:
        if hasattr(self._application.inner.state, "server"):  # Else it has not begun to start.
            self._state.stop_all("the server was stopped")

    def _cut_off(self) -> None:
        """Close the connections of clients that do not take their last words."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @property
    def _state(self) -> ServerState:
        state: ServerState = self._application.inner.state.server
        return state

    async def _end_with_parent(self, pid: int) -> None:
        await when_parent_ends(pid)
        self.end(f"the process {pid} has ended")

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Polite signals begin the end; in another thread than the main one there are none."""
        loop = asyncio.get_running_loop()
        before = {}
        for name in ENDING_SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and threading.current_thread() is threading.main_thread():
                before[number] = signal.signal(number, self._handler(loop, name))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handler(self, loop: asyncio.AbstractEventLoop, name: str) -> Callable[..., None]:
        def handle(number: int, frame: object) -> None:
            loop.call_soon_threadsafe(self.end, name)

        return handle


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets: of both loopback addresses for "localhost", else of the one address."""
    if host != "localhost":
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return [_bound(host.strip("[]"), port, family)]
    first = _bound(LOOPBACKS[0][0], port, LOOPBACKS[0][1])
    try:
        second = _bound(LOOPBACKS[1][0], first.getsockname()[1], LOOPBACKS[1][1])
    except EdgellamaError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            logger.warning("%s; clients that call ::1 reach the other program", error.what)
        return [first]  # No IPv6 here, or another program has that port there.
    except OSError:
        return [first]
    return [first, second]


def _bound(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    # Only where the protocol is named does asyncio send small pieces at once (TCP_NODELAY);
    # without, the second answer of a connection waits 40 ms for the client.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise EdgellamaError(_refused(host, port, error)) from error
    listener.setblocking(False)
    return listener


def _refused(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use, perhaps by another edgellama or ollama; "
            "give another with --port, or --port 0 for a free one"
        )
    return f"cannot listen on {host}, port {port}: {error.strerror or error}"


def stdin_is_pipe() -> bool:
    """Whether somebody holds the other end of standard input."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def watch_stdin(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> None:
    """Call ``end`` in the loop once standard input ends; a thread reads and forgets it."""

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(sys.stdin.fileno(), 65536):
                pass
        with contextlib.suppress(RuntimeError):  # The loop has ended.
            loop.call_soon_threadsafe(end)

    threading.Thread(target=read, name="edgellama-stdin", daemon=True).start()
