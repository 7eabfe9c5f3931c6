"""The words of llama.cpp's own server over real sockets: a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events

from edgellama.llama import Llama
from edgellama.server.settings import Limits, ServerSettings

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


def test_several_prompts_have_a_text_each(client: httpx.Client, tiny_path: Path) -> None:
    """As a list in their order; in a stream each piece tells whose it is."""
    with Llama(tiny_path) as llama:
        ids = llama.tokenizer.encode("Well", add_bos=True)
        expected = [
            llama.generate(prompt, max_tokens=5, temperature=0).text for prompt in ("Hello", ids)
        ]
    asked = {**ASKED, "prompt": ["Hello", ids]}
    texts = client.post("/completion", json=asked).json()
    assert [text["content"] for text in texts] == expected
    assert [text["index"] for text in texts] == [0, 1]
    pieces = sse_events(client.post("/completion", json={**asked, "stream": True}).text)
    for index, text in enumerate(expected):
        assert "".join(p["content"] for _, p in pieces if p["index"] == index) == text
    one = client.post("/completion", json={**ASKED, "prompt": ids}).json()
    assert one["content"] == expected[1]
    many = client.post("/completion", json={**ASKED, "prompt": ["a"] * 1000})
    assert many.status_code == 400 and "1000 prompts" in many.text


def test_tokens_and_how_probable_they_are(client: httpx.Client, tiny_path: Path) -> None:
    """They come where they are asked for, in pieces, too, and are the library's."""
    with Llama(tiny_path) as llama:
        expected = llama.generate("Hello", max_tokens=5, temperature=0, logprobs=2)
    asked = {**ASKED, "n_probs": 2, "return_tokens": True}
    whole = client.post("/completion", json=asked).json()
    assert whole["tokens"] == list(expected.tokens) and whole["model"] == "tiny"
    assert expected.logprobs is not None
    found = whole["completion_probabilities"]
    assert [each["id"] for each in found] == list(expected.tokens)
    assert [each["logprob"] for each in found] == [each.logprob for each in expected.logprobs]
    assert [len(each["top_logprobs"]) for each in found] == [2] * 5
    pieces = sse_events(client.post("/completion", json={**asked, "stream": True}).text)
    streamed = [each for _, piece in pieces for each in piece.get("completion_probabilities", [])]
    assert streamed == found
    assert [token for _, piece in pieces for token in piece["tokens"]] == whole["tokens"]


def test_a_stop_string_is_named(client: httpx.Client) -> None:
    """What ended a text is told: the string, else nothing."""
    text = client.post("/completion", json=ASKED).json()["content"]
    stopped = client.post("/completion", json={**ASKED, "stop": [text[1:3]]}).json()
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", text[1:3])


PAGE_OF_LLAMA_CPP: dict[str, Any] = {
    "cache_prompt": True,
    "timings_per_token": True,
    "return_progress": True,
    "reasoning_format": "auto",
    "backend_sampling": False,
    "n_keep": 0,
    "id_slot": -1,
    "n_probs": 0,
    "min_keep": 0,
    "grammar": "",
    "lora": [],
    "seed": -1,
    "mirostat": 0,
    "post_sampling_probs": False,
    "dry_penalty_last_n": -1,
    "typical_p": 1,
    "dry_sequence_breakers": ["\n"],
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "samplers": ["penalties", "dry", "top_k", "top_p", "min_p", "temperature"],
}
"""What programs for llama.cpp's server send beside the text, with its usual values."""


def test_what_programs_for_llama_cpp_send_is_taken(client: httpx.Client) -> None:
    """Every endpoint of texts takes the fields that such programs send."""
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    for path, own in (("/completion", {"prompt": "a"}), ("/v1/chat/completions", chat)):
        answer = client.post(path, json={**own, **PAGE_OF_LLAMA_CPP, "max_tokens": 2})
        assert answer.status_code == 200, answer.text
        # llama.vscode reads a chat's beginning in advance so.
        times = {"t_max_prompt_ms": 500, "t_max_predict_ms": 1}
        answer = client.post(path, json={**own, **times, "n_predict": 0, "samplers": []})
        assert answer.status_code == 200, answer.text


def test_samplers_are_letters_too(client: httpx.Client) -> None:
    """In the order of the letters; one that no sampler has is refused."""
    asked = {**ASKED, "temperature": 1.5, "seed": 3, "n_predict": 8}
    texts = [
        client.post("/completion", json={**asked, "samplers": samplers}).json()["content"]
        for samplers in ("kti", ["top_k", "temperature"])
    ]
    assert texts[0] == texts[1]
    wrong = client.post("/completion", json={**asked, "samplers": "kz"})
    assert wrong.status_code == 400 and "samplers" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("field", [{"lora": [{"id": 0, "scale": 1.0}]}, {"min_keep": 2}])
def test_what_would_change_a_text_is_refused(client: httpx.Client, field: dict[str, Any]) -> None:
    """A field that is not supported is named, unless it asks for nothing."""
    answer = client.post("/completion", json={**ASKED, **field})
    assert answer.status_code == 400 and next(iter(field)) in answer.json()["error"]["message"]


def test_a_template_is_applied(client: httpx.Client, tiny_path: Path) -> None:
    """The text is the prompt of a chat: ``/completion`` goes on from it as a chat does."""
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "Hello"}]
    prompt = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
    assert "be kind" in prompt and "Hello" in prompt
    asked = {"max_tokens": 5, "temperature": 0, "repeat_penalty": 1, "dry_multiplier": 0}
    chat = client.post("/v1/chat/completions", json={"messages": messages, **asked}).json()
    plain = client.post("/completion", json={"prompt": prompt, **asked}).json()
    assert plain["content"] == chat["choices"][0]["message"]["content"]
    assert plain["tokens_evaluated"] == chat["usage"]["prompt_tokens"]
    wrong = client.post("/apply-template", json={"messages": [], "temperature": 1})
    assert wrong.status_code == 400


def test_slots_are_texts_at_once(server: RunningServer, client: httpx.Client) -> None:
    """Free ones are free; a program may ask for an error where none is."""
    told = client.get("/slots").json()
    assert [slot["id"] for slot in told] == [0, 1, 2]
    assert not any(slot["is_processing"] for slot in told) and told[0]["n_ctx"] > 0
    queue = server.state.queue
    queue.num_running += queue.width
    try:
        assert all(slot["is_processing"] for slot in client.get("/slots").json())
        full = client.get("/slots", params={"fail_on_no_slot": "1"})
        assert full.status_code == 503
    finally:
        queue.num_running -= queue.width


def test_vectors_in_the_shape_of_llama_cpp(client: httpx.Client) -> None:
    """They are those of OpenAI's protocol."""
    expected = client.post("/v1/embeddings", json={"input": ["a", "b"]}).json()["data"]
    found = client.post("/embedding", json={"content": ["a", "b"]}).json()
    assert [each["embedding"] for each in found] == [[each["embedding"]] for each in expected]


def test_what_is_served_is_told(client: httpx.Client) -> None:
    """The properties have the context, the width and the template, and no file of the machine."""
    told = client.get("/props").json()
    assert told["default_generation_settings"]["n_ctx"] > 0 and told["total_slots"] == 3
    assert told["model_path"] == told["model_alias"] == "tiny"
    assert told["default_generation_settings"]["params"]["top_k"] == 40
    assert client.get("/v1/health").json()["status"] == "ok"


def test_openais_paths_without_their_prefix(client: httpx.Client) -> None:
    """A base URL without /v1 serves, as llama.cpp's does."""
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    assert client.post("/chat/completions", json=chat).json()["object"] == "chat.completion"
    assert client.post("/completions", json={"prompt": "a"}).json()["object"] == "text_completion"
    assert client.post("/embeddings", json={"input": "a"}).json()["object"] == "list"
    assert client.get("/models").json()["data"][0]["id"] == "tiny"
