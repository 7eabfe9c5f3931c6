"""The words of llama.cpp's own server over real sockets: a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import RunningServer, running_server, sse_events

from edgellama.llama import Llama
from edgellama.server import llama_cpp_routes
from edgellama.server.answers import OpenText
from edgellama.server.settings import Limits, ServerSettings
from edgellama.server.text_openers import open_prompt

ASKED: dict[str, Any] = {"prompt": "Hello", "n_predict": 5, "temperature": 0}


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[RunningServer]:
    """A server of the tiny model alone."""
    limits = Limits(max_tokens=50, parallel=3)
    settings = ServerSettings(models={"tiny": tiny_path}, only_given=True, limits=limits)
    with running_server(settings) as running:
        yield running


def test_a_completion_is_what_the_library_says(client: httpx.Client, tiny_path: Path) -> None:
    """Whole and in pieces, with fields about slots and caches, it is the library's own text."""
    with Llama(tiny_path) as llama:
        text = llama.generate("Hello", max_tokens=5, temperature=0).text
    about_slots = {"cache_prompt": True, "id_slot": -1, "n_keep": 0, "timings_per_token": False}
    whole = client.post("/completion", json={**ASKED, **about_slots}).json()
    assert whole["content"] == text and whole["stop"] and whole["stop_type"] == "limit"
    assert whole["tokens_predicted"] == whole["timings"]["predicted_n"] == 5
    pieces = sse_events(client.post("/completion", json={**ASKED, "stream": True}).text)
    assert "".join(piece["content"] for _, piece in pieces) == text
    assert [piece["stop"] for _, piece in pieces][-1] is True


def test_a_schema_holds(client: httpx.Client) -> None:
    """By llama.cpp's name of the field."""
    asked = {**ASKED, "json_schema": {"enum": [1, 2]}, "n_predict": -1}
    assert client.post("/completion", json=asked).json()["content"] in ("1", "2")


def test_what_a_client_wants_of_an_answer(client: httpx.Client) -> None:
    """Named fields alone, those inside others by their path; unknown ones are left out."""
    wanted = ["content", "timings/prompt_n", "timings/none", "none/of/it"]
    answer = client.post("/completion", json={**ASKED, "response_fields": wanted}).json()
    assert list(answer) == ["content", "timings/prompt_n"]


def test_an_editors_plugin_fills_a_gap(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that llama.vim sends is taken: parts of other files stand before the text."""
    seen: list[tuple[Any, Mapping[str, Any]]] = []

    def opened(prompt: Any, options: Mapping[str, Any]) -> OpenText:
        seen.append((prompt, options))
        return open_prompt(prompt, {"max_tokens": 2})  # The tiny model has no tokens for gaps.

    monkeypatch.setattr(llama_cpp_routes, "open_prompt", opened)
    body = {
        "input_prefix": "def f(",
        "input_suffix": "return 1",
        "input_extra": [{"text": "import os", "filename": "a.py"}],
        "prompt": "a, ",
        "n_predict": 128,
        "n_indent": 0,
        "top_k": 40,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1000,
        "response_fields": ["content", "timings/predicted_ms"],
    }
    assert client.post("/infill", json={**body, "n_predict": 20}).status_code == 200
    ((prompt, options),) = seen
    snippet = llama_cpp_routes.SNIPPET
    assert prompt == f"{snippet}import os{snippet}def f(a, "
    assert options["suffix"] == "return 1" and options["samplers"] == ["top_k", "top_p"]
    assert options["max_tokens"] == 20
    wrong = client.post("/infill", json={**body, "n_predict": 20, "input_extra": [{"x": 1}]})
    assert wrong.status_code == 400 and "input_extra" in wrong.json()["error"]["message"]


def test_what_is_served_is_told(client: httpx.Client) -> None:
    """The context, the width and the template, and no file of the machine."""
    told = client.get("/props").json()
    assert told["default_generation_settings"]["n_ctx"] > 0 and told["total_slots"] == 3
    assert told["model_path"] == told["model_alias"] == "tiny"
    assert client.get("/v1/health").json()["status"] == "ok"


def test_openais_paths_without_their_prefix(client: httpx.Client) -> None:
    """A base URL without /v1 serves, as llama.cpp's does."""
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    assert client.post("/chat/completions", json=chat).json()["object"] == "chat.completion"
    assert client.post("/completions", json={"prompt": "a"}).json()["object"] == "text_completion"
    assert client.post("/embeddings", json={"input": "a"}).json()["object"] == "list"
    assert client.get("/models").json()["data"][0]["id"] == "tiny"
