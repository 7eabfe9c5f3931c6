"""``edgellama serve`` as a process: what it prints, and everything that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import CliRunner, keep_kernels
from doubles.stalling_index import until_some_came
from harness.patience import until
from harness.servers import client_of, served, sse_events

from edgellama.cli.application import run
from edgellama.cli.commands import serve
from edgellama.server.run import open_sockets

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, "temperature": 0}


def test_a_sidecar_prints_its_address_and_ends_with_stdin(tiny_path: Path) -> None:
    """One line of JSON, a key that is needed, both loopback addresses, and the end with a pipe."""
    with served(tiny_path, stdin=subprocess.PIPE) as (process, facts):
        assert set(facts) == {"host", "port", "url", "token"}
        assert httpx.get(f"{facts['url']}/v1/models").status_code == 401
        with client_of(facts) as client:
            models = client.get("/v1/models").json()
            assert [entry["id"] for entry in models["data"]] == [tiny_path.stem]
        for address in ("127.0.0.1", "::1") if socket.has_ipv6 else ("127.0.0.1",):
            with contextlib.suppress(OSError):  # A machine without ::1.
                socket.create_connection((address, facts["port"]), timeout=5).close()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        process.stdin = None


def test_no_page_and_small_bodies(tiny_path: Path) -> None:
    """Options reach the server: browsers find no page, and larger requests are refused."""
    options = ("--no-page", "--body-limit", "2KB")
    with served(tiny_path, *options) as (_, facts), client_of(facts) as client:
        assert client.get("/", headers={"accept": "text/html"}).text == "edgellama is running"
        answer = client.post(CHAT, json={**LONG, "stop": ["x" * 3000]})
        assert answer.status_code == 413 and "up to 2000" in answer.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.usefixtures("stalling_index")
def test_a_download_ends_with_the_server(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM: its client is told, pip has ended, and no file of it is left."""
    cache = keep_kernels(tmp_path / "cache")
    monkeypatch.setenv("EDGELLAMA_CACHE", str(cache))
    with served(tiny_path, "--drain", "0.1") as (process, facts), client_of(facts) as client:
        with client.stream("POST", "/api/pull", json={"model": "smollm2"}) as answer:
            lines = answer.iter_lines()
            assert json.loads(next(lines)) == {"status": "pulling manifest"}
            until_some_came(cache / "models", process)
            process.send_signal(signal.SIGTERM)
            assert "cancelled" in json.loads(list(lines)[-1])["error"]
        assert process.wait(60) == 0
    assert not list((cache / "models").rglob(".partial-*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_start_ends_when_it_is_told_to(tiny_path: Path, empty_cache: Path) -> None:
    """While kernels are compiled, which takes minutes on slow machines; all are not there then."""
    command = [sys.executable, "-m", "edgellama", "serve", str(tiny_path), "--port", "0", "--only"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and "loading" in process.stderr.readline()
    until(lambda: list(empty_cache.rglob("*.o")))
    process.send_signal(signal.SIGTERM)
    (told,) = process.stderr.read().splitlines()
    assert process.wait(60) == 0 and told.startswith("compiling ")
    assert len(list(empty_cache.rglob("*.o"))) < 8


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_running_answers_finish_when_the_server_is_told_to_end(tiny_path: Path) -> None:
    """SIGTERM: the stream comes to its own end, and then the process ends well."""
    with served(tiny_path) as (process, facts), client_of(facts) as client:
        body = {**LONG, "max_tokens": 200, "stream": True}
        with client.stream("POST", CHAT, json=body) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            process.send_signal(signal.SIGTERM)
            text += "".join(pieces)
        assert sse_events(text)[-1] == (None, "[DONE]")
        reasons = [content["choices"][0]["finish_reason"] for _, content in sse_events(text)[:-1]]
        assert reasons[-1] == "length"
        assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_what_cannot_finish_is_told_why(tiny_path: Path) -> None:
    """With no time to drain, streams end with an error event, and nothing hangs."""
    with served(tiny_path, "--drain", "0", "--parallel", "1") as (process, facts):
        body = {**LONG, "max_tokens": 250, "stream": True}
        texts: list[str] = []

        def run() -> None:
            with client_of(facts) as client:
                texts.append(client.post(CHAT, json=body).text)

        threads = [threading.Thread(target=run) for _ in range(16)]
        for thread in threads:
            thread.start()
        with client_of(facts) as client:
            while True:
                told = client.get("/stats").json()
                if told["running"] + told["waiting"] + told["totals"]["texts"] >= len(threads):
                    break
            assert told["waiting"]
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(60) == 0
    assert all(("[DONE]" in text) != ("shutting_down" in text) for text in texts)
    assert len(texts) == 16 and any("shutting_down" in text for text in texts)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_work_that_is_no_text_is_told_why_it_ends(tiny_path: Path) -> None:
    """With no time to drain it ends between two steps, those that wait do, too."""
    path, body = "/v1/embeddings", {"input": ["word " * 40] * 2000}
    with served(tiny_path, "--drain", "0", "--parallel", "1") as (process, facts):
        with ThreadPoolExecutor(3) as pool, client_of(facts) as client:
            asked = [pool.submit(client_of(facts).post, path, json=body) for _ in range(3)]
            while client.get("/stats").json()["running"] == 0:
                pass
            process.send_signal(signal.SIGTERM)
            answers = [each.result() for each in asked]
        assert process.wait(60) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "shutting_down"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_second_signal_ends_at_once(tiny_path: Path) -> None:
    """The stream is told why, whatever time was left to drain; nothing is said to the terminal."""
    with served(tiny_path, "--drain", "600") as (process, facts), client_of(facts) as client:
        body = {**LONG, "max_tokens": 250, "stream": True, "n": 16}
        with client.stream("POST", CHAT, json=body) as answer:
            pieces = answer.iter_text()
            next(pieces)
            process.send_signal(signal.SIGTERM)
            while True:
                try:
                    client_of(facts).get("/health")
                except httpx.TransportError:
                    break
            process.send_signal(signal.SIGTERM)
            last = sse_events("".join(pieces))[-1][1]
        assert last == "[DONE]" or last["error"]["code"] == "shutting_down"
        assert process.wait(60) == 0 and process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell is needed")
def test_it_ends_with_its_parent(tiny_path: Path) -> None:
    """--parent-pid: the end of that process is the server's."""
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with served(tiny_path, "--parent-pid", str(parent.pid)) as (process, facts):
        assert httpx.get(f"{facts['url']}/health").status_code == 200
        parent.communicate()
        assert process.wait(60) == 0


def test_what_cannot_be_served_is_said_in_a_line(run_cli: CliRunner, tiny_path: Path) -> None:
    """A port that is in use, and a file that is no model."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run_cli("serve", tiny_path, "--host", "127.0.0.1", "--port", port)
    assert result.returncode == 1 and f"port {port}" in result.stderr
    assert "--port 0" in result.stderr and "Traceback" not in result.stderr
    broken = tiny_path.with_name("broken.gguf")
    broken.write_bytes(b"nonsense" * 100)
    result = run_cli("serve", broken, "--port", "0")
    assert result.returncode == 1 and result.stdout == ""
    assert "broken.gguf" in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of this process stays as it is."""
    monkeypatch.setattr(serve, "_show_log", lambda is_wanted: None)


@pytest.mark.usefixtures("own_log")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--api-key", " "],
        ["--alias", "gpt-4o"],
        ["--keep-alive", "soon"],
        ["--host", "no.such.host.invalid"],
    ],
)
def test_wrong_options_are_said_in_a_line(
    tiny_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Nothing is served, and what is wrong is the last line."""
    assert run(["serve", str(tiny_path), "--port", "0", *arguments]) in (1, 2)
    told = capsys.readouterr()
    assert told.err.splitlines()[-1].startswith("edgellama: error:") and told.out == ""


@pytest.mark.usefixtures("own_log")
def test_a_parent_that_has_ended_is_none(
    tiny_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server must not outlive whom it belongs to."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert run(["serve", str(tiny_path), "--port", "0", "--parent-pid", str(gone.pid)]) == 1
    assert "parent_pid" in capsys.readouterr().err


def test_keys_come_from_a_file(tiny_path: Path, tmp_path: Path) -> None:
    """One on each line; comments and empty lines are none."""
    file = tmp_path / "keys"
    file.write_text("# a comment\n\nfirst\nsecond\n")
    with served(tiny_path, "--api-key-file", os.fspath(file)) as (_, facts):
        assert facts["token"] == "first"
        headers = {"x-api-key": "second"}
        assert httpx.get(f"{facts['url']}/v1/models", headers=headers).status_code == 200


def test_small_answers_are_not_held_back() -> None:
    """Connections send at once what they have: the system never collects small pieces."""
    from edgellama.server.run import open_sockets

    async def accepted() -> int:
        found = asyncio.get_running_loop().create_future()

        async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            found.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener, *others = open_sockets("localhost", 0)
        for other in others:
            other.close()
        async with await asyncio.start_server(note, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            nodelay: int = await found
            writer.close()
        return nodelay

    assert asyncio.run(accepted())


def test_another_program_on_the_other_loopback_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where ::1 has that port taken, 127.0.0.1 alone is served, and a warning says so."""
    with socket.socket(socket.AF_INET6) as taken:
        try:
            taken.bind(("::1", 0))
        except OSError:
            pytest.skip("no ::1 here")
        taken.listen()
        listeners = open_sockets("localhost", taken.getsockname()[1])
    for listener in listeners:
        listener.close()
    assert [listener.family for listener in listeners] == [socket.AF_INET]
    assert "of ::1 is in use" in caplog.text and "the other program" in caplog.text
