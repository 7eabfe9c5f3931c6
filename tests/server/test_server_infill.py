"""Gaps as llama.vim and llama.vscode ask for them, over real sockets: a small random Code Llama."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events
from hypothesis import given
from hypothesis import strategies as st

from edgellama.llama import Llama
from edgellama.server.llama_cpp.gaps import SNIPPET, LineLimits
from edgellama.server.settings import ServerSettings

CONTEXT = 256
GREEDY = {"temperature": 0, "repeat_penalty": 1, "dry_multiplier": 0}
VIM: dict[str, Any] = {
    "input_prefix": "import os\n",
    "input_suffix": "\n    return x\n",
    "input_extra": [{"text": "a = 1\n", "time": [0, 1], "filename": "a.py"}],
    "prompt": "def f(x):",
    "n_predict": 6,
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "id_slot": 0,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": ["content", "timings/prompt_n", "timings/predicted_ms", "truncated"],
}


@pytest.fixture(scope="module")
def server(code_llama_path: Path) -> Iterator[RunningServer]:
    """A server of that model alone."""
    models, engine = {"code": code_llama_path}, {"context_length": CONTEXT}
    with running_server(ServerSettings(models=models, only_given=True, engine=engine)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of it."""
    with server.client() as client:
        yield client


def filled(path: Path, prefix: str, suffix: str, **options: Any) -> str:
    """What the library fills in."""
    with Llama(path, context_length=CONTEXT) as llama:
        return llama.fill(prefix, suffix, **options).text


def test_an_editors_gap_is_filled(client: httpx.Client, code_llama_path: Path) -> None:
    """Parts of other files stand before the text, what the cursor's line begins with behind it."""
    answer = client.post("/infill", json={**VIM, "temperature": 0}).json()
    prefix = f"{SNIPPET}a = 1\n{SNIPPET}import os\ndef f(x):"
    options = {"temperature": 0, "samplers": ["top_k", "top_p"], "max_tokens": 6}
    assert answer["content"] == filled(code_llama_path, prefix, VIM["input_suffix"], **options)
    assert answer["timings/prompt_n"] > 10 and answer["timings/predicted_ms"] >= 0
    assert answer["truncated"] is False and set(answer) == set(VIM["response_fields"])


def test_an_editor_may_read_other_files_in_advance(client: httpx.Client) -> None:
    """Nothing is written and nothing told, but the next prompt's beginning is there then."""
    asked = {**VIM, "input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0}
    asked |= {"samplers": [], "t_max_prompt_ms": 1, "t_max_predict_ms": 1, "response_fields": [""]}
    answer = client.post("/infill", json=asked)
    assert answer.status_code == 200 and answer.json() == {}


def test_parts_that_do_not_fit_are_left_out(client: httpx.Client, code_llama_path: Path) -> None:
    """The oldest parts go first, which is told, and the gap's own text stays."""
    parts = [{"text": "x = 1\n" * 50}, {"text": "y = 2\n"}, {"text": "z = 3\n"}]
    asked = {**VIM, "input_extra": parts, **GREEDY}
    answer = client.post("/infill", json={**asked, "response_fields": []}).json()
    prefix = f"{SNIPPET}y = 2\n{SNIPPET}z = 3\n{SNIPPET}import os\ndef f(x):"
    options = {**GREEDY, "samplers": ["top_k", "top_p"], "max_tokens": 6}
    assert answer["truncated"] is True
    assert answer["content"] == filled(code_llama_path, prefix, VIM["input_suffix"], **options)
    own = client.post("/infill", json={**asked, "input_prefix": "x = 1\n" * 500})
    assert own.status_code == 400 and own.json()["error"]["code"] == "context_length_exceeded"


def test_a_part_of_another_file_has_a_text(client: httpx.Client) -> None:
    """What has none is refused by the field's name."""
    wrong = client.post("/infill", json={**VIM, "input_extra": [{"x": 1}]})
    assert wrong.status_code == 400 and "input_extra" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/infill", "/completion"])
@pytest.mark.parametrize(
    ("limits", "content"),
    [
        ({"n_indent": 4, "t_max_predict_ms": 0}, "a\n\n    b\n  "),
        ({"t_max_predict_ms": 0.000001}, "a\n"),
        ({"n_indent": 2}, "a\n\n    b\n  c\n"),
        ({"n_indent": -1, "t_max_predict_ms": -1}, "a\n\n    b\n  c\nd"),
        ({}, "a\n\n    b\n  c\nd"),
    ],
)
def test_a_text_ends_by_its_lines(
    client: httpx.Client, path: str, limits: dict[str, Any], content: str
) -> None:
    """A less indented line is none of a gap's; a late text ends where it has a line break."""
    asked = {"prompt": "f", "input_prefix": "def ", "input_suffix": "end"}
    if path == "/completion":
        asked = {"prompt": "f"}
    asked |= {"regex": r"a\n\n    b\n  c\nd", "n_predict": 100, **limits}
    whole = client.post(path, json=asked).json()
    assert whole["content"].startswith(content) and whole["stop"] is True
    assert (whole["stop_type"] == "limit") == ("d" not in content)
    assert len(whole["content"]) <= len(content) + 4  # A token may have more than its line break.
    pieces = sse_events(client.post(path, json={**asked, "stream": True}).text)
    assert "".join(piece["content"] for _, piece in pieces) == whole["content"]


@pytest.mark.parametrize("number", ["x", [[]], {"a": 1}, -2])
def test_a_number_of_tokens_is_one(client: httpx.Client, number: object) -> None:
    """A 400 that names it, whatever else stands there."""
    answer = client.post("/infill", json={"input_prefix": "def ", "n_predict": number})
    assert answer.status_code == 400 and "max_tokens" in answer.json()["error"]["message"]


def test_limits_of_lines_are_numbers(client: httpx.Client) -> None:
    """Anything else is refused by its name."""
    for field in ("t_max_predict_ms", "n_indent"):
        answer = client.post("/infill", json={**VIM, field: "x"})
        assert answer.status_code == 400 and field in answer.json()["error"]["message"]


@given(st.text("a \t\n", max_size=30), st.integers(1, 4))
def test_no_line_but_the_first_is_less_indented(text: str, indentation: int) -> None:
    """What a text is cut to has no such line, and goes on to the first one's first character."""
    end = LineLimits(indentation=indentation).end_in(text, 0)
    kept = text if end is None else text[:end]
    lines = [line for line in kept.split("\n")[1:] if line.strip()]
    assert all(len(line) - len(line.lstrip(" \t")) >= indentation for line in lines)
    if end is not None:
        last = kept.rpartition("\n")[2]
        assert not last.strip() and len(last) < indentation and text[end] == "a"
