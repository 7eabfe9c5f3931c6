"""Ollama's protocol over real sockets: a tiny random model, served by a thread of this process."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.patience import PATIENCE_S, until
from harness.servers import RunningServer

from edgellama.llama import Llama
from edgellama.models import pulling
from edgellama.quant.errors import DownloadError

ASKED = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "num_predict": 6}


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines of an answer, each as JSON."""
    return [json.loads(line) for line in answer.text.splitlines()]


def chat(**fields: Any) -> dict[str, Any]:
    """The body of a small chat."""
    return {"model": "tiny", "messages": ASKED, "options": GREEDY, **fields}


def generate(**fields: Any) -> dict[str, Any]:
    """The body of a small text."""
    return {"model": "tiny", "prompt": "Hello", "options": GREEDY, "stream": False, **fields}


def test_a_chat_streams_lines_by_default(client: httpx.Client) -> None:
    """Each line holds a piece; the last has no text, the reason and all figures."""
    whole = client.post("/api/chat", json=chat(stream=False)).json()
    answer = client.post("/api/chat", json=chat())
    assert answer.headers["content-type"] == "application/x-ndjson"
    *pieces, last = lines(answer)
    text = "".join(piece["message"]["content"] for piece in pieces)
    assert text == whole["message"]["content"]
    assert {piece["message"]["role"] for piece in pieces} == {"assistant"}
    assert not any(piece["done"] for piece in pieces)
    assert last["done"] is True and last["done_reason"] == whole["done_reason"] == "length"
    for name in ("total", "load", "prompt_eval", "eval"):
        assert isinstance(last[f"{name}_duration"], int)
    assert last["eval_count"] == 6 and last["prompt_eval_count"] == whole["prompt_eval_count"]


def test_a_chat_says_what_the_library_says(client: httpx.Client, tiny_path: Path) -> None:
    """Options by Ollama's names are those of Llama.chat."""
    answer = client.post("/api/chat", json=chat(stream=False, options={**GREEDY, "top_k": 5}))
    with Llama(tiny_path) as llama, llama.chat(temperature=0, max_tokens=6, top_k=5) as talk:
        assert answer.json()["message"]["content"] == talk.send("Hello").text


def test_raw_prompts_go_on_as_they_stand(client: httpx.Client, tiny_path: Path) -> None:
    """``raw`` leaves the chat format out, and control tokens in."""
    answer = client.post("/api/generate", json=generate(raw=True)).json()
    with Llama(tiny_path) as llama:
        expected = llama.generate("Hello", temperature=0, max_tokens=6, parse_special=True)
    assert answer["response"] == expected.text
    assert answer["prompt_eval_count"] == expected.prompt_tokens
    assert "context" not in answer


def test_a_context_is_gone_on_with(client: httpx.Client) -> None:
    """The tokens of one text come before the next prompt, with one BOS in all."""
    first = client.post("/api/generate", json=generate()).json()
    alone = first["prompt_eval_count"]
    second = client.post("/api/generate", json=generate(context=first["context"])).json()
    assert second["prompt_eval_count"] == len(first["context"]) + alone - 1
    assert len(first["context"]) == alone + first["eval_count"]


def test_a_reply_that_has_begun_is_gone_on_with(client: httpx.Client) -> None:
    """A last message of the assistant is the reply's beginning."""
    whole = client.post("/api/chat", json=chat(stream=False)).json()
    text = whole["message"]["content"]
    begun = [*ASKED, {"role": "assistant", "content": text[:2]}]
    more = client.post("/api/chat", json=chat(stream=False, messages=begun)).json()
    assert more["prompt_eval_count"] > whole["prompt_eval_count"]


def test_a_model_is_unloaded_and_loaded_by_empty_requests(client: httpx.Client) -> None:
    """keep_alive 0 without a prompt unloads, another one loads; ps tells."""
    unloaded = client.post("/api/generate", json={"model": "tiny", "keep_alive": 0}).json()
    assert unloaded["done_reason"] == "unload"
    assert client.get("/api/ps").json() == {"models": []}
    loaded = client.post("/api/chat", json={"model": "tiny", "keep_alive": "5m"}).json()
    assert loaded["done_reason"] == "load"
    (model,) = client.get("/api/ps").json()["models"]
    assert model["name"] == "tiny:latest" and model["context_length"] == 256
    assert model["expires_at"] > loaded["created_at"]


def test_a_model_goes_when_its_time_is_over(client: httpx.Client) -> None:
    """A short keep_alive of a request unloads the model after it."""
    client.post("/api/generate", json=generate(keep_alive="1ms"))
    for _ in range(200):
        if not client.get("/api/ps").json()["models"]:
            break
    assert client.get("/api/ps").json() == {"models": []}
    assert client.post("/api/generate", json=generate()).status_code == 200


def test_models_are_told_in_full(client: httpx.Client, tiny_path: Path) -> None:
    """Lists and details have what clients look for, and no path of this machine."""
    (tag,) = client.get("/api/tags").json()["models"]
    assert tag["name"] == tag["model"] == "tiny:latest"
    assert tag["size"] == tiny_path.stat().st_size and len(tag["digest"]) == 64
    shown = client.post("/api/show", json={"model": "tiny:latest"})
    assert shown.json()["model_info"]["llama.context_length"] == 256
    assert "completion" in shown.json()["capabilities"]
    assert str(tiny_path.parent) not in shown.text
    assert all(part.isdigit() for part in client.get("/api/version").json()["version"].split("."))


def test_root_answers_get_and_head(client: httpx.Client) -> None:
    """Clients ask for / to see whether somebody is there."""
    assert client.get("/").text and client.get("/").status_code == 200
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/api/chat", {"model": "none"}, "tiny"),
        ("/api/chat", {"think": 3}, "think"),
        ("/api/chat", {"options": {"mirostat": 0, "temprature": 1}}, "did you mean temperature?"),
        ("/api/chat", {"options": {"temperature": -1}}, "temperature"),
        ("/api/chat", {"keep_alive": "soon"}, "soon"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x" * 999}]}, "256"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, "infilling"),
        ("/api/show", {"model": "../tiny"}, "../tiny"),
        ("/api/pull", {"model": "hf:../../x"}, "hf:OWNER/REPO"),
        ("/api/pull", {"model": "http://evil/x.gguf"}, "hf:OWNER/REPO"),
        ("/api/pull", {"model": "nowhere", "insecure": True}, "hf:OWNER/REPO"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    client: httpx.Client, path: str, fields: dict[str, Any], words: str
) -> None:
    """An error is ``{"error": "text"}`` with what is allowed, and never a success."""
    body = fields if path in ("/api/show", "/api/pull") else chat(**fields)
    if path == "/api/generate":
        body.pop("messages")
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 404)
    assert list(answer.json()) == ["error"] and words in answer.json()["error"]


def test_a_pull_tells_its_progress(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, tiny_path: Path
) -> None:
    """Lines begin with the manifest and end with success, with bytes between them."""

    def fetch(name: str, *, progress: Any, **_: Any) -> Path:
        progress(10, 100)
        return tiny_path

    monkeypatch.setattr(pulling, "pull", fetch)
    told = lines(client.post("/api/pull", json={"model": "smollm2:latest"}))
    assert told[0] == {"status": "pulling manifest"} and told[-1] == {"status": "success"}
    assert [(line["completed"], line["total"]) for line in told if "total" in line] == [(10, 100)]
    whole = client.post("/api/pull", json={"name": "smollm2", "stream": False})
    assert whole.json() == {"status": "success"}


def test_a_pull_that_fails_says_why(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the last line, without a path of this machine."""

    def fetch(name: str, *, progress: Any, **_: Any) -> Path:
        raise OSError("the disk /home/somebody/disk is full")

    monkeypatch.setattr(pulling, "pull", fetch)
    told = lines(client.post("/api/pull", json={"model": "smollm2"}))
    assert "error" in told[-1] and "/home" not in told[-1]["error"]


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_pull_ends_when_the_last_client_has_left(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, is_stream: bool
) -> None:
    """Who leaves does not end it for others; nobody downloads what nobody waits for."""
    begun, ended = threading.Event(), threading.Event()

    def fetch(name: str, *, progress: Any, cancelled: Any) -> Path:
        begun.set()
        while not cancelled():
            progress(10, 100)
            time.sleep(0.005)
        ended.set()
        raise DownloadError("it was cancelled")

    monkeypatch.setattr(pulling, "pull", fetch)
    body = json.dumps({"model": "smollm2", "stream": is_stream}).encode()
    head = f"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    for connection in connections:
        connection.sendall(head.encode() + body)
    (download,) = until(lambda: list(server.state.jobs.running.values()))
    until(lambda: download._num_waiting == 2)
    assert begun.wait(PATIENCE_S)
    connections[0].close()
    until(lambda: download._num_waiting == 1)
    assert download.is_running and not ended.is_set()
    connections[1].close()
    assert ended.wait(PATIENCE_S)
    until(lambda: not server.state.jobs.running)
