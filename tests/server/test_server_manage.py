"""Models that clients make of others, copy and delete; names are never paths."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server

from edgellama.kernels_cpu.machine.user_cache import cache_root
from edgellama.llama import Llama
from edgellama.models import made
from edgellama.server.settings import ServerSettings

ASKED = [{"role": "user", "content": "Hello"}]
SHORT = {"temperature": 0, "num_predict": 8}


@pytest.fixture
def cache(tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with one model, and the kernels that are compiled already."""
    folder = tmp_path / "cache"
    (folder / "models").mkdir(parents=True)
    (folder / "kernels").symlink_to(cache_root() / "kernels")
    os.link(tiny_path, folder / "models" / "small.gguf")
    monkeypatch.setenv("EDGELLAMA_CACHE", str(folder))
    return folder


@pytest.fixture
def server(cache: Path, tiny_path: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of a given model and of the cache's, whose clients may change the cache."""
    settings = ServerSettings(
        models={"tiny": tiny_path},
        aliases={"gpt-4o": "small"},
        allow_manage=True,
        store=tmp_path / "responses.sqlite",
    )
    with running_server(settings) as running:
        yield running


def names(client: httpx.Client) -> set[str]:
    """The models that there are."""
    return {entry["name"] for entry in client.get("/api/tags").json()["models"]}


def create(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    """The lines of a model's making."""
    answer = client.post("/api/create", json={"model": "mine", "from": "small", **fields})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def said(client: httpx.Client, model: str, messages: Any = ASKED, **fields: Any) -> str:
    """What a model replies."""
    body = {"model": model, "messages": messages, "stream": False, **fields}
    answer = client.post("/api/chat", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["message"]["content"])


def test_a_made_model_begins_with_its_words(client: httpx.Client) -> None:
    """System, messages and options are those of its making, in every protocol, unless said."""
    shots = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
    parameters = {**SHORT, "num_ctx": 128, "stop": ["\x00never"]}
    told = create(client, system="Be brief.", messages=shots, parameters=parameters)
    assert told[-1] == {"status": "success"}
    system = {"role": "system", "content": "Be brief."}
    expected = said(client, "small", [system, *shots, *ASKED], options=SHORT)
    assert said(client, "mine") == said(client, "mine:latest") == expected
    other = [{"role": "system", "content": "Be long."}]
    assert said(client, "mine", [*other, *ASKED]) == said(
        client, "small", [*other, *shots, *ASKED], options=SHORT
    )
    chat = client.post("/v1/chat/completions", json={"model": "mine", "messages": ASKED}).json()
    assert chat["choices"][0]["message"]["content"] == expected
    message = {"model": "mine", "messages": ASKED, "max_tokens": 8}
    assert client.post("/v1/messages", json=message).json()["content"][0]["text"] == expected
    response = client.post("/v1/responses", json={"model": "mine", "input": "Hello"}).json()
    assert response["output"][0]["content"][0]["text"] == expected
    generated = {"model": "mine", "prompt": "Hello", "stream": False}
    assert client.post("/api/generate", json=generated).json()["response"] == expected
    longer = said(client, "mine", options={"num_predict": 12})
    assert longer.startswith(expected) and longer != expected


def test_a_made_model_is_shown(client: httpx.Client) -> None:
    """With what it was made of; it takes no room, and can be made anew."""
    create(client, system="One.", parameters={"temperature": 0.5})
    create(client, model="team/mine:v2", **{"from": "mine"}, parameters={"top_k": 3})
    shown = client.post("/api/show", json={"model": "team/mine:v2"}).json()
    assert shown["system"] == "One." and shown["details"]["parent_model"] == "small"
    assert [line.split() for line in shown["parameters"].splitlines()] == [
        ["temperature", "0.5"],
        ["top_k", "3"],
    ]
    assert 'FROM small\nSYSTEM """One."""' in shown["modelfile"]
    assert {"small:latest", "mine:latest", "team/mine:v2"} <= names(client)
    files = list((cache_root() / "made").glob("*/*.gguf"))
    assert len(files) == 2
    assert len({file.stat().st_ino for file in files}) == 1
    said(client, "mine", options=SHORT)
    create(client, system="Two.")
    assert client.post("/api/show", json={"model": "mine"}).json()["system"] == "Two."
    assert said(client, "mine", options=SHORT) == said(
        client, "small", [{"role": "system", "content": "Two."}, *ASKED], options=SHORT
    )


def test_a_made_model_has_another_type(client: httpx.Client, cache: Path) -> None:
    """It is written anew, with its progress, and answers."""
    told = create(client, quantize="Q4_0", **{"from": "tiny"})
    assert told[-1] == {"status": "success"}
    assert any(line.get("total") == line.get("completed", -1) for line in told)
    details = client.post("/api/show", json={"model": "mine"}).json()["details"]
    assert details["quantization_level"] == "Q4_0"
    assert said(client, "mine", options=SHORT)
    assert sorted(path.name for path in (cache / "made" / "mine").iterdir()) == [
        "model.gguf",
        "preset.json",
    ]


def test_a_template_of_its_own(client: httpx.Client) -> None:
    """Jinja is taken; Ollama's language and what is wrong are refused with what is allowed."""
    create(client, template="{% for m in messages %}{{ m.content }}{% endfor %}")
    body = {"model": "small", "prompt": "Hello", "raw": True, "stream": False, "options": SHORT}
    raw = client.post("/api/generate", json=body).json()
    chat = {"model": "mine", "messages": ASKED, "stream": False, "options": SHORT}
    mine = client.post("/api/chat", json=chat).json()
    small = client.post("/api/chat", json={**chat, "model": "small"}).json()
    assert mine["prompt_eval_count"] == raw["prompt_eval_count"] < small["prompt_eval_count"]
    bad = {"model": "bad", "from": "small"}
    for template in ("{{ .Prompt }}", "{{ if .System }}x{{ end }}", "{% for %}", "no such format"):
        answer = client.post("/api/create", json={**bad, "template": template})
        assert answer.status_code == 400 and "template" in answer.json()["error"]
    assert "bad:latest" not in names(client)


def test_a_copy_outlives_its_original(client: httpx.Client, cache: Path) -> None:
    """As when a model is renamed: copied, then deleted."""
    copy = {"source": "small", "destination": "other"}
    assert client.post("/api/copy", json=copy).status_code == 200
    expected = said(client, "small", options=SHORT)
    assert client.request("DELETE", "/api/delete", json={"model": "small"}).status_code == 200
    assert not (cache / "models" / "small.gguf").exists()
    assert "small:latest" not in names(client)
    assert said(client, "other", options=SHORT) == expected
    assert client.request("DELETE", "/api/delete", json={"model": "other"}).status_code == 200
    assert not list((cache / "made").glob("*"))


def test_what_is_given_or_in_use_stays(server: RunningServer, client: httpx.Client) -> None:
    """A model of the command line is not the cache's; one that writes is not taken away."""
    answer = client.request("DELETE", "/api/delete", json={"model": "tiny"})
    assert answer.status_code == 403 and "given" in answer.json()["error"]
    begun, go_on = threading.Event(), threading.Event()
    stream = Llama.session

    def waiting(self: Llama, *arguments: Any, **options: Any) -> Any:
        begun.set()
        go_on.wait(60)
        return stream(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Llama, "session", waiting)
        thread = threading.Thread(target=said, args=(client, "small"), kwargs={"options": SHORT})
        thread.start()
        assert begun.wait(60)
        with server.client() as second:
            answer = second.request("DELETE", "/api/delete", json={"model": "small"})
        go_on.set()
        thread.join()
    assert answer.status_code == 409 and "in use" in answer.json()["error"]
    assert client.request("DELETE", "/api/delete", json={"model": "nobody"}).status_code == 404
    for name in ("gpt-4o", "gpt-4o:latest"):
        answer = client.request("DELETE", "/api/delete", json={"model": name})
        assert answer.status_code == 400 and "another name of small" in answer.json()["error"]
    assert "small:latest" in names(client)


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/tmp/x", "a/../b", "..", ".hidden", "a\\b", "C:\\x", "a/b/c/d", "", "a b"),
        *("x" * 100, "nul\x00", "ä", "a//b", "a/", ":v1", "hf:a/b", "%2e%2e", "a:b:c"),
    ],
)
def test_names_are_no_paths(client: httpx.Client, cache: Path, name: str) -> None:
    """Whatever is no plain name is refused, wherever it is given; nothing is made."""
    before = sorted(cache.rglob("*"))
    for path, body in (
        ("/api/create", {"model": name, "from": "small"}),
        ("/api/copy", {"source": "small", "destination": name}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code in (400, 409) and list(answer.json()) == ["error"]
    deleted = client.request("DELETE", "/api/delete", json={"model": name})
    assert deleted.status_code in (400, 404)
    assert [path for path in sorted(cache.rglob("*")) if path.name != "made"] == before


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"from": "nobody"}, 404),
        ({"from": ""}, 400),
        ({"model": "small"}, 409),
        ({"model": "tiny"}, 409),
        ({"model": "smollm2"}, 409),
        ({"model": "gpt-4o"}, 409),
        ({"quantize": "q99"}, 400),
        ({"parameters": {"temprature": 1}}, 400),
        ({"parameters": {"temperature": "hot"}}, 400),
        ({"messages": [{"role": "king", "content": "x"}]}, 400),
        ({"modelfile": "FROM small"}, 400),
        ({"files": {"a.gguf": "sha256:0"}}, 400),
        ({"adapters": {"a.gguf": "sha256:0"}}, 400),
    ],
)
def test_what_cannot_be_made_is_refused(
    client: httpx.Client, fields: dict[str, Any], status: int
) -> None:
    """With a line that says why."""
    answer = client.post("/api/create", json={"model": "mine", "from": "small", **fields})
    assert answer.status_code == status and answer.json()["error"], answer.text
    assert "mine:latest" not in names(client)


def test_a_making_that_nobody_waits_for_ends(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Who leaves ends it, and nothing half made is left."""
    begun, failed = threading.Event(), threading.Event()

    def slowly(source: Path, target: Path, type_name: str, progress: Any) -> None:
        target.write_bytes(b"half")
        begun.set()
        try:
            while True:
                progress(1, 2)
        except BaseException:
            failed.set()
            raise

    monkeypatch.setattr(made, "_write_anew", slowly)
    body = {"model": "mine", "from": "small", "quantize": "q4_0"}
    with server.client() as client, client.stream("POST", "/api/create", json=body):
        assert begun.wait(60)
        with server.client() as second:  # It would not be what was asked for.
            answer = second.post("/api/create", json={**body, "system": "Another."})
            assert answer.status_code == 409 and "being made" in answer.json()["error"]
    assert failed.wait(60)
    with server.client() as client:
        assert "mine:latest" not in names(client)
    assert not list((cache / "made").glob("[!.]*"))


def test_without_leave_nothing_is_changed(tiny_path: Path, cache: Path, tmp_path: Path) -> None:
    """Every way is refused, and the option is named; models are never pushed."""
    settings = ServerSettings(models={"tiny": tiny_path}, store=tmp_path / "responses.sqlite")
    with running_server(settings) as server, server.client() as client:
        for method, path, body in (
            ("POST", "/api/create", {"model": "mine", "from": "small"}),
            ("POST", "/api/copy", {"source": "small", "destination": "mine"}),
            ("DELETE", "/api/delete", {"model": "small"}),
        ):
            answer = client.request(method, path, json=body)
            assert answer.status_code == 403 and "--allow-manage" in answer.json()["error"]
        answer = client.post("/api/push", json={"model": "small"})
        assert answer.status_code == 501 and "hub" in answer.json()["error"]
        assert client.head("/api/blobs/sha256:00").status_code == 404
        assert client.post("/api/blobs/sha256:00", content=b"x").status_code == 501
    assert (cache / "models" / "small.gguf").exists() and not (cache / "made").exists()
