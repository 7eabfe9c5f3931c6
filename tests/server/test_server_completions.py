"""Completions, tokens, gaps and figures over real sockets: a tiny random model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.llama import Llama
from edgellama.server.answers.metrics import Metrics
from edgellama.server.settings import Limits, ServerSettings
from edgellama.text.tokenizer import Tokenizer

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[RunningServer]:
    """A server of the tiny model alone."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, only_given=True, limits=Limits(max_tokens=50)
    )
    with running_server(settings) as running:
        yield running


def texts(answer: httpx.Response) -> list[str]:
    """The texts of an answer by index."""
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["text"] for choice in choices]


def test_a_completion_is_what_the_library_says(client: httpx.Client, tiny_path: Path) -> None:
    """Sixteen tokens by default, as OpenAI has it, with the library's own text."""
    answer = client.post(PATH, json={"prompt": "Hello", "temperature": 0})
    with Llama(tiny_path) as llama:
        expected = llama.generate("Hello", temperature=0, max_tokens=16)
    assert texts(answer) == [expected.text]
    assert answer.json()["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer.json()["choices"][0]["finish_reason"] == expected.finish_reason


def test_prompts_of_every_form(client: httpx.Client, tiny_path: Path) -> None:
    """A text, texts, token ids and lists of them mean what they mean alone."""
    with Llama(tiny_path) as llama:
        tokens = llama.tokenizer.encode("Hello", add_bos=True)
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
    (text,) = texts(client.post(PATH, json={"prompt": "Hello", **body}))
    for prompt in (["Hello"], tokens, [tokens]):
        assert texts(client.post(PATH, json={"prompt": prompt, **body})) == [text]
    both = client.post(PATH, json={"prompt": ["Hello", "Bye"], "n": 2, **body})
    assert texts(both)[:2] == [text, text] and len(texts(both)) == 4
    assert both.json()["usage"]["completion_tokens"] <= 16


class PassedDeadline:
    """A time limit that is over when the text begins."""

    def __init__(self, token: CancelToken, seconds: float | None) -> None:
        token.cancel("timeout")

    def call_off(self) -> None:
        """Nothing is left to be called off."""


def test_a_time_limit_amid_a_prompts_log_probabilities_is_told(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no text can be cut off, because a prompt is scored, a time limit is a 408."""
    monkeypatch.setattr("edgellama.generation.sessions.stream.Deadline", PassedDeadline)
    body = {"prompt": "Hello", "echo": True, "logprobs": 1, "max_tokens": 0}
    response = client.post(PATH, json={**body, "timeout": 60})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (408, "timeout")
    assert error["message"].startswith("the time limit (timeout) came before")


def test_echo_comes_before_the_text(client: httpx.Client) -> None:
    """The prompt stands before each text, streamed or not."""
    body: dict[str, Any] = {"prompt": ["Hello", "Bye"], "echo": True, "temperature": 0}
    whole = texts(client.post(PATH, json=body))
    assert whole[0].startswith("Hello") and whole[1].startswith("Bye")
    streamed = ["", ""]
    for _, chunk in sse_events(client.post(PATH, json={**body, "stream": True}).text)[:-1]:
        choice = chunk["choices"][0]
        streamed[choice["index"]] += choice["text"]
    assert streamed == whole


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": []},
        {"prompt": [1, "a"]},
        {"prompt": [[]]},
        {"prompt": 3},
        {"prompt": [999999]},
        {"prompt": ["a"] * 17},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "max_tokens": 51},
        {"prompt": "a", "best_of": 2},
    ],
)
def test_what_cannot_be_obeyed_is_refused(client: httpx.Client, fields: dict[str, Any]) -> None:
    """A 400 in OpenAI's shape says what is allowed."""
    answer = client.post(PATH, json=fields)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_tokens_there_and_back(client: httpx.Client, tiny_path: Path) -> None:
    """Tokens are the tokenizer's, and become the text again."""
    answer = client.post("/tokenize", json={"content": "Hello world", "add_special": True}).json()
    with Llama(tiny_path) as llama:
        assert answer["tokens"] == llama.tokenizer.encode("Hello world", add_bos=True)
    pieces = client.post("/tokenize", json={"content": "Hello world", "with_pieces": True}).json()
    ids = [piece["id"] for piece in pieces["tokens"]]
    assert client.post("/detokenize", json={"tokens": ids}).json()["content"] == "Hello world"
    assert client.post("/detokenize", json={"tokens": [10**9]}).status_code == 400
    assert client.post("/detokenize", json={"tokens": ["a"]}).status_code == 400


def test_pieces_are_the_text_of_tokens(client: httpx.Client, tiny_path: Path) -> None:
    """Each token has its text, as llama.cpp writes it; a part of a character is its bytes."""
    text = "Hello w\u00f6rld \U0001f600\n"
    answer = client.post("/tokenize", json={"content": text, "with_pieces": True}).json()
    pieces = [piece["piece"] for piece in answer["tokens"]]
    data = [p.encode() if isinstance(p, str) else bytes(p) for p in pieces]
    assert b"".join(data).decode() == text and any(isinstance(p, list) for p in pieces)
    many = client.post("/tokenize", json={"content": "a b" * 30_000}).json()["tokens"]
    with Llama(tiny_path) as llama:
        assert many == llama.tokenizer.encode("a b" * 30_000, add_bos=False)
    assert client.post("/tokenize", json={"content": ""}).json() == {"tokens": []}


def test_others_are_answered_while_a_giant_text_is_cut(
    server: RunningServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither finding the tokens nor writing them keeps the event loop; one such text at a time."""
    running, answered = threading.Event(), threading.Event()
    own = Tokenizer.token_bytes

    def slow(tokenizer: Tokenizer, token: int, **options: bool) -> bytes:
        running.set()
        assert answered.wait(60)
        return own(tokenizer, token, **options)

    monkeypatch.setattr(Tokenizer, "token_bytes", slow)
    with ThreadPoolExecutor(1) as pool, server.client() as other:
        asked = {"content": "Hello", "with_pieces": True}
        giant = pool.submit(other.post, "/tokenize", json=asked)
        try:
            assert running.wait(60)
            assert client.get("/health").status_code == 200 and not giant.done()
        finally:
            answered.set()
        assert giant.result(60).status_code == 200


def test_a_giant_prompt_is_refused_by_its_length(client: httpx.Client) -> None:
    """A prompt and a chat's message that are giant get an error about the context."""
    giant = "word " * 1_000_000
    chat = [{"role": "user", "content": giant}]
    for path, asked in (
        ("completions", {"prompt": giant}),
        ("chat/completions", {"messages": chat}),
    ):
        answer = client.post(f"/v1/{path}", json=asked)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded" and "at least" in error["message"]


def test_a_model_without_gaps_says_so(client: httpx.Client) -> None:
    """Infilling with a model that cannot is a 400."""
    answer = client.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert answer.status_code == 400 and "infilling" in answer.json()["error"]["message"]


def test_metrics_count_what_was_done(client: httpx.Client) -> None:
    """Prometheus finds well-formed lines, and totals grow with a text."""

    def totals() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    before = totals()
    client.post(PATH, json={"prompt": "Hello", "max_tokens": 3, "temperature": 0})
    after = totals()
    generated = 'edgellama_tokens_total{kind="generated"}'
    assert after[generated] - before.get(generated, 0) == 3
    requests = f'edgellama_requests_total{{route="{PATH}",status="200"}}'
    assert after[requests] - before.get(requests, 0) == 1
    buckets = [after[name] for name in after if name.startswith("edgellama_first_token_seconds_b")]
    assert buckets == sorted(buckets)
    stats = client.get("/stats").json()
    assert stats["models"][0]["name"] == "tiny" and stats["totals"]["generated_tokens"] > 0


def test_large_counts_keep_all_digits() -> None:
    """A counter never stands still because its last digits are left out."""
    text = Metrics().as_text({"prompt_cache_bytes": 12_345_678_901})
    assert "edgellama_prompt_cache_bytes 12345678901\n" in text
