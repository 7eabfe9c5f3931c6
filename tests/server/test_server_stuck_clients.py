"""Clients that ask for a stream and then take nothing of it: nobody waits for them for ever."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.servers import RunningServer, running_server
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.server import run
from edgellama.server.connections import connections
from edgellama.server.settings import ServerSettings

ASKED = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 400,
    "ignore_eos": True,
    "stream": True,
    "logprobs": True,
    "top_logprobs": 20,
}
"""A stream of a megabyte, which no buffers take."""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of some context."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    return write_tiny_llama(path, TinyLlama(context_length=1024))


@contextlib.contextmanager
def stuck_client(server: RunningServer) -> Iterator[socket.socket]:
    """One that has asked and takes nothing."""
    listener = server._sockets[0]
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = json.dumps(ASKED).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield connection


def test_a_client_that_takes_nothing_has_left(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while its connection is closed, and others go on."""
    monkeypatch.setattr(connections, "STALL_S", 0.2)
    settings = ServerSettings(models={"tiny": model_path}, only_given=True)
    with running_server(settings) as server, stuck_client(server) as connection:
        open_ones = server.server.server_state.connections
        while not open_ones:
            pass
        while open_ones:
            pass
        connection.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
        with server.client() as client:
            assert client.post("/tokenize", json={"content": "a"}).status_code == 200


@pytest.mark.slow
def test_the_end_does_not_wait_for_who_takes_nothing(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cut off once the others' last words are out, and the log has no traceback."""
    monkeypatch.setattr(run, "GRACE_S", 0.2)
    settings = ServerSettings(models={"tiny": model_path}, only_given=True, drain_s=0)
    with caplog.at_level(logging.WARNING):
        server = RunningServer(settings)
        with stuck_client(server):
            while not server.state.metrics.counts["texts"]:
                pass
            server.stop()
    assert [record for record in caplog.records if record.exc_info] == []
