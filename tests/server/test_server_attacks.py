"""Requests that two programs could read in two ways, and giant or strange ones: over real sockets.

Each is refused in words, or means what it says; the server answers the next one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.patience import until
from harness.servers import RunningServer, raw_answer, running_server

from edgellama.server.settings import Limits, ServerSettings

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
BODY = json.dumps(ASKED)
CHUNKS = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
HOST = "Host: localhost\r\n"
CLOSE = f"{HOST}Connection: close\r\n"


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose limits are soon reached."""
    limits = Limits(body_seconds=0.5, header_seconds=0.5)
    store = tmp_path_factory.mktemp("attacks") / "r.sqlite"
    models = {"tiny": tiny_path}
    with running_server(
        ServerSettings(models=models, only_given=True, limits=limits, store=store)
    ) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client that finds the server well afterwards."""
    with server.client() as client:
        yield client
        health = client.get("/health").json()
        assert (health["status"], health["running"], health["waiting"]) == ("ok", 0, 0)


def answered(server: RunningServer, text: str) -> tuple[int, bytes]:
    """The first status that a server answers to these bytes, and all behind it."""
    line, _, rest = raw_answer(server, text.encode("latin-1")).partition(b"\r\n")
    return int(line.split()[1]), rest


def post(fields: str, body: str = BODY) -> str:
    """A request for a chat with these header fields."""
    return f"POST {CHAT} HTTP/1.1\r\n{CLOSE}{fields}\r\n{body}"


@pytest.mark.parametrize(
    "text",
    [
        post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        post("Transfer-Encoding: identity, chunked\r\n", CHUNKS),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNKS),
        post("Transfer-Encoding: xchunked\r\n", CHUNKS),
        post("Transfer-Encoding : chunked\r\n", CHUNKS),
        post("Transfer-Encoding: chunked\r\n", f"-1\r\n{BODY}\r\n0\r\n\r\n"),
        post(f"Content-Length: 4\r\nContent-Length: {len(BODY)}\r\n"),
        *(post(f"Content-Length: {value}\r\n") for value in ("-1", "+5", "0x10", "5 5", "\xb2")),
        f"GET /health HTTP/1.1\r\n{CLOSE}x: a\x00b\r\n\r\n",
        "GET /health\r\n\r\n",
    ],
)
def test_a_length_that_can_be_read_in_two_ways_is_refused(
    server: RunningServer, client: httpx.Client, text: str
) -> None:
    """Smuggling: a 400 in JSON, and nothing behind it is taken for a request of its own."""
    hidden = f"GET /v1/models HTTP/1.1\r\n{HOST}\r\n"
    status, rest = answered(server, text + hidden)
    assert status == 400 and b'"object":"list"' not in rest
    assert b"application/json" in rest and b'"error":{"message":' in rest


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("GET http://localhost/health HTTP/1.1", 400, b"set as a proxy?"),
        ("GET http://evil.example/health HTTP/1.1", 400, b"set as a proxy?"),
        ("CONNECT evil.example:443 HTTP/1.1", 400, b"allowed: a path"),
        ("GET health HTTP/1.1", 400, b"allowed: a path"),
        ("GET * HTTP/1.1", 400, b"allowed: a path"),
        ("OPTIONS * HTTP/1.1", 204, b"allow: GET, POST"),
        ("GET /health HTTP/1.2", 505, b"allowed: 1.0, 1.1"),
        ("PRI * HTTP/2.0", 505, b"allowed: 1.0, 1.1"),
        ("TRACE /health HTTP/1.1", 405, b"TRACE is not allowed here"),
        (f"PUT {CHAT} HTTP/1.1", 405, b"allow: POST"),
        ("get /health HTTP/1.1", 405, b"get is not allowed here"),
        ("GET /%00 HTTP/1.1", 404, rb"'/\\x00'"),
        ("GET /page/..%2f..%2fetc/passwd HTTP/1.1", 404, b"there is no GET"),
        ("GET //evil.example/health HTTP/1.1", 404, b"there is no GET"),
    ],
)
def test_strange_targets_methods_and_versions(
    server: RunningServer, client: httpx.Client, line: str, status: int, words: bytes
) -> None:
    """Each is refused in words that say what is allowed."""
    found, rest = answered(server, f"{line}\r\n{CLOSE}\r\n")
    assert found == status and words in rest


@pytest.mark.parametrize(
    "host",
    [
        *("evil@localhost", "localhost@evil", "localhost/", "localhost#@evil", "localhost\\@evil"),
        *("localhost:abc", "localhost, evil", "localhost%00.evil", "127.1", "2130706433"),
        *("[::ffff:127.0.0.1]", "[::1", "localhost:80:80", "localhost?", "http://localhost"),
    ],
)
def test_a_host_of_another_form_is_refused(server: RunningServer, host: str) -> None:
    """What another parser could take for another name is no name of ours."""
    fields = f"Host: {host}\r\nConnection: close\r\n"
    assert answered(server, f"GET /health HTTP/1.1\r\n{fields}\r\n")[0] in (400, 403)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_body_that_breaks_leaves_the_log_clean(
    server: RunningServer, client: httpx.Client, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """It is refused once; whoever answers the head of its request says nothing more."""
    before = server.state.metrics.counts["requests"]
    head = f"{method} /health HTTP/1.1\r\n{CLOSE}Transfer-Encoding: chunked\r\n\r\n"
    status, rest = answered(server, f"{head}no chunk\r\n")
    assert status == 400 and b"HTTP/1.1 " not in rest
    until(lambda: server.state.metrics.counts["requests"] > before)
    assert [record for record in caplog.records if record.exc_info] == []


def test_an_upgrade_is_not_taken_up(server: RunningServer) -> None:
    """A websocket, or HTTP/2, is answered as the plain request that it also is."""
    for name in ("websocket", "h2c"):
        fields = f"{HOST}Connection: Upgrade, close\r\nUpgrade: {name}\r\n"
        fields += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        status, rest = answered(server, f"GET /health HTTP/1.1\r\n{fields}\r\n")
        assert status == 200 and b'"status":"ok"' in rest


def test_many_headers_and_many_requests_at_once(server: RunningServer) -> None:
    """A thousand of them in one packet are read, and answered each."""
    many = "".join(f"x{number}: a\r\n" for number in range(1000))
    assert answered(server, f"GET /health HTTP/1.1\r\n{CLOSE}{many}\r\n")[0] == 200
    asked = f"GET /health HTTP/1.1\r\n{HOST}\r\n" * 999
    answer = raw_answer(server, f"{asked}GET /health HTTP/1.1\r\n{CLOSE}\r\n".encode())
    assert answer.count(b'"status":"ok"') == 1000


def test_of_two_equal_keys_the_last_one_holds(client: httpx.Client) -> None:
    """As every JSON library of clients reads it."""
    answer = client.post(CHAT, content=BODY[:-1] + ', "max_tokens": 1, "n": 9, "n": 1}')
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": [f"<{number}>" for number in range(100_000)]},
        {"banned": [f"<{number}>" for number in range(100_000)]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 20_000}]},
        {"messages": [{"role": "user", "content": "a"}] * 5_000},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"logit_bias": {"9" * 5000: 1}},
        {"logit_bias": {"\u00b2": 1, "\u0663": 1}},
        {"prediction": {"type": "content", "content": "a" * 20_000}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}},
        {"keep_alive": "soon"},
        {"n": 10**9},
    ],
)
def test_giant_and_strange_fields(client: httpx.Client, fields: dict[str, Any]) -> None:
    """They are obeyed, or refused in a line."""
    answer = client.post(CHAT, json={**ASKED, **fields})
    assert answer.status_code in (200, 400), answer.text
    assert len(answer.text) < 2000


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/messages", "/api/generate"])
def test_whole_numbers_may_be_written_as_floats(client: httpx.Client, path: str) -> None:
    """Some languages have no other numbers; a number that is not whole is refused."""
    said = {"prompt": "Hello"} if path in ("/v1/completions", "/api/generate") else ASKED
    for number, status in ((2.0, 200), (2.5, 400)):
        given: dict[str, Any] = {"max_tokens": number, "top_k": 5.0}
        if path == "/api/generate":
            given = {"options": {"num_predict": number, "num_ctx": 512.0}, "stream": False}
        answer = client.post(path, json={**said, "model": "tiny", **given})
        assert answer.status_code == status, answer.text


def test_a_model_in_use_is_loaded_and_unloaded_by_many(tiny_path: Path, tmp_path: Path) -> None:
    """Chats, unloads and lists at the same moment: every chat is answered, nothing is left."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, unloads_given=True, store=tmp_path / "r.sqlite"
    )
    barrier = threading.Barrier(8)

    def user(number: int) -> list[int]:
        statuses = []
        with server.client() as client:
            barrier.wait()
            for _ in range(6):
                if number % 2:
                    unload = {"model": "tiny", "keep_alive": 0}
                    statuses.append(client.post("/api/generate", json=unload).status_code)
                    statuses.append(client.get("/api/ps").status_code)
                else:
                    chat = {**ASKED, "stream": number % 4 == 0, "keep_alive": 0}
                    statuses.append(client.post(CHAT, json=chat).status_code)
        return statuses

    with running_server(settings) as server, ThreadPoolExecutor(8) as threads:
        assert {status for found in threads.map(user, range(8)) for status in found} == {200}
        with server.client() as client:
            client.post("/api/generate", json={"model": "tiny", "keep_alive": 0})
            assert client.get("/api/ps").json() == {"models": []}
