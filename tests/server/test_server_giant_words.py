"""Giant words that nobody waits for any more: the server gives up making tokens of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server

from edgellama.server.answers.answers import Answer
from edgellama.server.answers.leaving import Leaving
from edgellama.server.settings import ServerSettings
from edgellama.text.tokenizer import Tokenizer
from edgellama.text.tokenizer.byte_pair_merge import MAX_SYMBOLS_AT_ONCE, BytePairMerger

GIANT = "a" * (4 * MAX_SYMBOLS_AT_ONCE)
MESSAGES = [{"role": "user", "content": GIANT}]
ASKED: dict[str, dict[str, Any]] = {
    "/tokenize": {"content": GIANT},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/apply-template": {"messages": MESSAGES},
    "/v1/embeddings": {"input": GIANT},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": GIANT},
}


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[RunningServer]:
    """A server of a tiny model."""
    with running_server(ServerSettings(models={"tiny": tiny_path}, only_given=True)) as running:
        yield running


class Held:
    """Holds the first window of a giant word until somebody has been told to stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.told = threading.Event(), threading.Event()
        self.num_windows = 0
        merged, cancel, stop = BytePairMerger._merged, Answer._cancel, Leaving.stop

        def hold(merger: BytePairMerger, symbols: Any) -> Any:
            if len(symbols) == MAX_SYMBOLS_AT_ONCE:
                self.num_windows += 1
                self.begun.set()
                assert self.told.wait(60)
            return merged(merger, symbols)

        def cancelling(answer: Answer) -> None:
            cancel(answer)
            self.told.set()

        def stopping(leaving: Leaving, error: Any) -> None:
            stop(leaving, error)
            self.told.set()

        monkeypatch.setattr(BytePairMerger, "_merged", hold)
        monkeypatch.setattr(Answer, "_cancel", cancelling)
        monkeypatch.setattr(Leaving, "stop", stopping)
        # The tiny model's context is too small for giants.
        monkeypatch.setattr(Tokenizer, "min_tokens", lambda *given: 0)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """What holds words."""
    return Held(monkeypatch)


@pytest.mark.parametrize("path", ASKED)
def test_who_leaves_ends_the_work(server: RunningServer, held: Held, path: str) -> None:
    """Not one more window is merged, and the server answers the next one."""
    body = httpx.Request("POST", server.url, json=ASKED[path]).content
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body)
        assert held.begun.wait(60)
    assert held.told.wait(60)
    with server.client() as client:
        assert client.post("/tokenize", json={"content": "a"}).status_code == 200
        while client.get("/health").json()["running"]:
            pass
    assert held.num_windows == 1


@pytest.mark.parametrize("path", ASKED)
def test_the_servers_end_ends_the_work(server: RunningServer, held: Held, path: str) -> None:
    """Its client is told why."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        with server.client() as client:
            answers.append(client.post(path, json=ASKED[path]))

    asking = threading.Thread(target=ask)
    asking.start()
    assert held.begun.wait(60)
    loop = server.server.servers[0].get_loop()
    loop.call_soon_threadsafe(server.state.stop_all, "the server was stopped")
    asking.join(60)
    assert answers[0].status_code == 503 and "the server was stopped" in answers[0].text
    assert held.num_windows == 1
