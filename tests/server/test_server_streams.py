"""Streams that have to wait: they say that they live, and what becomes of late errors."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.patience import PATIENCE_S
from harness.servers import RunningServer, running_server, sse_events

from edgellama.generation.chat.chat_format import ChatFormat
from edgellama.quant.errors import TemplateError
from edgellama.server.answers.mailbox import Mailbox
from edgellama.server.connections.short_way import ShortWay
from edgellama.server.settings import Limits, ServerSettings

ASKED = [{"role": "user", "content": "Hello"}]
PING_S = 0.05
NUM_PINGS = 3
"""Heard while a prompt takes its time."""


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that says that it lives very often."""
    settings = ServerSettings(
        models={"tiny": tiny_path},
        only_given=True,
        ping_s=PING_S,
        limits=Limits(parallel=1),
        store=tmp_path_factory.mktemp("store") / "responses.sqlite",
    )
    with running_server(settings) as running:
        yield running


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Prompts take their time, as long ones do: until the client has heard enough."""
    heard, prompt = threading.Event(), ChatFormat.prompt

    def slowly(self: ChatFormat, *arguments: Any) -> Any:
        assert heard.wait(PATIENCE_S)
        return prompt(self, *arguments)

    monkeypatch.setattr(ChatFormat, "prompt", slowly)
    return heard


def post(server: RunningServer, path: str, heard: threading.Event, **fields: Any) -> str:
    """The answer to a small streamed request, which tells when it has some pings."""
    body = {"messages": ASKED, "max_tokens": 3, "stream": True, "input": "Hello", **fields}
    kept = ("input",) if path != "/v1/responses" else ("messages", "max_tokens")
    text = ""
    with server.client() as client:
        sent = {key: body[key] for key in body if key not in kept}
        with client.stream("POST", path, json=sent) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_text():
                text += piece
                pings = [line for line in text.splitlines() if is_ping(line)]
                if len(pings) >= NUM_PINGS:
                    heard.set()
    return text


def is_ping(line: str) -> bool:
    """Whether a line says that the server lives, in the words of one of the protocols."""
    is_piece = line.startswith("{") and '"content":""' in line
    return is_piece or line.startswith(":") or line == "event: ping"


def test_openais_streams_have_comments(server: RunningServer, heard: threading.Event) -> None:
    """Comments that say what is waited for come between whole events, which stay as they are."""
    text = post(server, "/v1/chat/completions", heard)
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert len(comments) >= NUM_PINGS and "working" in comments[0]
    *chunks, last = [content for _, content in sse_events(text)]
    assert last == "[DONE]"
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks].count("assistant") == 1


def test_ollamas_streams_have_empty_pieces(server: RunningServer, heard: threading.Event) -> None:
    """Every line stays JSON that clients can add up."""
    fields = {"max_tokens": None, "options": {"num_predict": 3}}
    text = post(server, "/api/chat", heard, **fields)
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["message"]["content"] for line in lines[:NUM_PINGS]] == [""] * NUM_PINGS
    assert [line["done"] for line in lines].count(True) == 1


def test_anthropics_streams_have_pings(server: RunningServer, heard: threading.Event) -> None:
    """Events called ping, behind the message's start; counts come at the end."""
    events = sse_events(post(server, "/v1/messages", heard))
    names = [name for name, _ in events]
    assert names[0] == "message_start" and names.count("ping") >= NUM_PINGS
    assert dict(events)["message_delta"]["usage"]["input_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/chat/completions", '"error":{"message":"the template raised'),
        ("/api/chat", '{"error":"the template raised'),
        ("/v1/messages", "event: error"),
        ("/v1/responses", "event: response.failed"),
    ],
)
def test_a_late_error_is_the_last_event(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    """Once headers are out an error ends the stream, in its protocol's shape."""

    heard = threading.Event()

    def fail(*_: Any) -> Any:
        assert heard.wait(PATIENCE_S)
        raise TemplateError("the template raised: no such role")

    monkeypatch.setattr(ChatFormat, "prompt", fail)
    text = post(server, path, heard, **({"max_tokens": None} if path == "/api/chat" else {}))
    last = text.rstrip("\n").split("\n\n" if path != "/api/chat" else "\n")[-1]
    assert words in last and "no such role" in last


def test_who_waits_in_line_is_told(server: RunningServer, heard: threading.Event) -> None:
    """The comment has the position."""
    path = "/v1/chat/completions"
    with server.client() as first:
        body = {"messages": ASKED, "max_tokens": 3, "stream": True}
        with first.stream("POST", path, json=body) as running:
            pieces = running.iter_text()
            next(pieces)
            text = post(server, path, heard)
    assert ": waiting, position 1" in text


def test_a_slow_client_gets_every_byte(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client does not take at once is written by the event loop, in order."""
    rests, write_rest = [], ShortWay.write_rest
    monkeypatch.setattr(
        ShortWay, "write_rest", lambda way, rest: [rests.append(rest), write_rest(way, rest)]
    )
    post = Mailbox.post

    def slowly(mailbox: Mailbox[Any], item: Any) -> None:
        time.sleep(0.005)  # The loop has long begun the stream when the client's buffer is full.
        post(mailbox, item)

    monkeypatch.setattr(Mailbox, "post", slowly)
    fields: dict[str, Any] = {"messages": ASKED, "max_tokens": 120, "temperature": 0}
    fields |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    with server.client() as client:
        whole = client.post("/v1/chat/completions", json={**fields, "stream": False}).json()
    num_texts = server.state.metrics.counts["texts"]
    body = json.dumps({**fields, "stream": True}).encode()
    listener = server._sockets[0]
    before = listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    try:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while server.state.metrics.counts["texts"] == num_texts:
                time.sleep(0.01)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            text = answer.read().decode()
    finally:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before)
    *chunks, last = [content for _, content in sse_events(text)]
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert rests and last == "[DONE]" and chunks[-1]["usage"]["completion_tokens"] == 120


def test_texts_of_one_answer_do_not_mix(tiny_path: Path, tmp_path: Path) -> None:
    """Several threads write to one stream: each text is the same as without a stream."""
    settings = ServerSettings(models={"tiny": tiny_path}, store=tmp_path / "r.sqlite")
    fields = {"messages": ASKED, "max_tokens": 40, "seed": 3, "n": 4, "ignore_eos": True}
    with running_server(settings) as running, running.client() as client:
        whole = client.post("/v1/chat/completions", json=fields).json()
        streamed = client.post("/v1/chat/completions", json={**fields, "stream": True}).text
    texts = [""] * 4
    for _, content in sse_events(streamed)[:-1]:
        (choice,) = content["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]


def test_nothing_comes_behind_the_end(tiny_path: Path, tmp_path: Path) -> None:
    """However often a stream says that it lives, its end is the last that is said."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, ping_s=0.0001, store=tmp_path / "responses.sqlite"
    )
    body = {"messages": ASKED, "options": {"num_predict": 5}}
    with running_server(settings) as running, running.client() as client:
        for _ in range(20):
            lines = [json.loads(line) for line in client.post("/api/chat", json=body).iter_lines()]
            assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
            events = sse_events(
                client.post(
                    "/v1/messages", json={"messages": ASKED, "stream": True, "max_tokens": 5}
                ).text
            )
            assert events[-1][0] == "message_stop"


def test_who_closes_its_half_has_left(server: RunningServer) -> None:
    """No answer is written for it, and its text ends; what needs no waiting is answered still."""

    def answer_to(head: str, body: bytes = b"") -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            sent = f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(sent.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    text = {"messages": ASKED, "max_tokens": 200, "ignore_eos": True}
    assert answer_to("POST /v1/chat/completions", json.dumps(text).encode()) == b""
    assert answer_to("GET /api/version").startswith(b"HTTP/1.1 200")
    with server.client() as client:
        short = {"messages": ASKED, "max_tokens": 1}
        assert client.post("/v1/chat/completions", json=short).status_code == 200
