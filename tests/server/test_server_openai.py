"""OpenAI's protocol over real sockets: a tiny random model, served by a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events

from edgellama.llama import Llama
from edgellama.server.settings import Limits, ServerSettings

ASKED = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[RunningServer]:
    """A server of that model alone."""
    settings = ServerSettings(
        models={"tiny": tiny_path},
        only_given=True,
        aliases={"gpt-4o": "tiny"},
        limits=Limits(parallel=2, max_waiting=2),
    )
    with running_server(settings) as running:
        yield running


def ask(**fields: Any) -> dict[str, Any]:
    """The body of a small request."""
    return {"messages": ASKED, "max_tokens": 6, "temperature": 0, **fields}


def test_a_reply_is_what_the_library_says(client: httpx.Client, tiny_path: Path) -> None:
    """A greedy reply has the text, the reason and the counts of Llama.chat."""
    answer = client.post(CHAT, json=ask()).json()
    with Llama(tiny_path) as llama, llama.chat(temperature=0, max_tokens=6) as chat:
        expected = chat.send("Hello")
    choice = answer["choices"][0]
    assert choice["message"]["content"] == expected.text
    assert choice["finish_reason"] == expected.finish_reason
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer["usage"]["completion_tokens"] == len(expected.tokens)
    assert answer["model"] == "tiny" and answer["object"] == "chat.completion"


def test_a_stream_has_the_form_that_clients_need(client: httpx.Client) -> None:
    """The role comes once and first, then text, the reason with an empty delta, and [DONE]."""
    whole = client.post(CHAT, json=ask()).json()["choices"][0]["message"]["content"]
    answer = client.post(CHAT, json=ask(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, last = [content for _, content in sse_events(answer.text)]
    assert last == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk and len(chunk["choices"]) == 1 for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (
        len(chunks) - 1
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert "".join(delta.get("content", "") for delta in deltas) == whole


def test_usage_comes_only_if_asked_for(client: httpx.Client) -> None:
    """With include_usage one more chunk has no choices, and the counts."""
    answer = client.post(CHAT, json=ask(stream=True, stream_options={"include_usage": True}))
    *chunks, _ = [content for _, content in sse_events(answer.text)]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_a_seed_makes_texts_again(client: httpx.Client) -> None:
    """The same seed gives the same texts, several of them differ from each other."""
    body = ask(n=2, seed=7, temperature=1.5, max_tokens=16)
    first, second = (
        [choice["message"]["content"] for choice in client.post(CHAT, json=body).json()["choices"]]
        for _ in range(2)
    )
    assert first == second
    assert first[0] != first[1]


def test_several_texts_stream_side_by_side(client: httpx.Client) -> None:
    """Each text of a stream has its own index, role and end, and the whole as without stream."""
    body = ask(n=2, seed=7, temperature=1.5)
    choices = client.post(CHAT, json=body).json()["choices"]
    texts, ends = ["", ""], [0, 0]
    for _, content in sse_events(client.post(CHAT, json={**body, "stream": True}).text)[:-1]:
        choice = content["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
        ends[choice["index"]] += choice["finish_reason"] is not None
    assert texts == [choice["message"]["content"] for choice in choices]
    assert ends == [1, 1]


def test_both_names_of_the_limit_hold(client: httpx.Client) -> None:
    """max_completion_tokens limits as max_tokens does."""
    body = {"messages": ASKED, "temperature": 0, "max_completion_tokens": 3}
    assert client.post(CHAT, json=body).json()["usage"]["completion_tokens"] == 3


def test_stop_strings_end_a_text(client: httpx.Client) -> None:
    """The text ends before the string, and says so."""
    text = client.post(CHAT, json=ask()).json()["choices"][0]["message"]["content"]
    stop = text[len(text) // 2 :][:2]
    choice = client.post(CHAT, json=ask(stop=[stop])).json()["choices"][0]
    assert choice["message"]["content"] == text.partition(stop)[0]
    assert choice["finish_reason"] == "stop"


def test_a_repeated_prompt_is_found_again(client: httpx.Client) -> None:
    """What an earlier request has computed counts as cached."""
    body = ask(messages=[{"role": "user", "content": "a " * 75}], max_tokens=1)
    client.post(CHAT, json=body)
    usage = client.post(CHAT, json=body).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 128


@pytest.mark.parametrize("name", ["tiny", "tiny:latest", "gpt-4o", "", None])
def test_names_of_a_model(client: httpx.Client, name: str | None) -> None:
    """A name, Ollama's form of it, an alias and no name all mean the model."""
    assert client.post(CHAT, json=ask(model=name, max_tokens=1)).json()["model"] == "tiny"


def test_system_messages_anywhere_are_taken(client: httpx.Client) -> None:
    """A developer's message, and one in the middle, are the system's in front."""
    parts = [{"type": "text", "text": "Be brief."}]
    moved = [*ASKED, {"role": "developer", "content": parts}]
    in_front = [{"role": "system", "content": "Be brief."}, *ASKED]
    answers = [
        client.post(CHAT, json=ask(messages=messages)).json() for messages in (moved, in_front)
    ]
    assert answers[0]["choices"] == answers[1]["choices"]


def test_values_that_ask_for_nothing_are_taken(client: httpx.Client) -> None:
    """What clients send by default needs no support."""
    neutral = {"user": "u", "n": 1, "frequency_penalty": 0, "tools": [], "logprobs": False}
    neutral |= {"seed": -1, "max_tokens": -1, "max_completion_tokens": 2}
    neutral |= {"response_format": {"type": "text"}, "top_p": None, "stop": None}
    assert client.post(CHAT, json=ask(**neutral)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokns": 3}, "max_tokns"),
        ({"n": 0}, "n"),
        ({"n": "two"}, "n"),
        ({"n": 17}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "images": ["abc"]}]}, "messages[0]"),
        ({"best_of": 3}, "best_of"),
        ({"reasoning_effort": True}, "reasoning_effort"),
        ({"reasoning": "high"}, "reasoning"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    client: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    """A 400 names the field, in OpenAI's shape; nothing is dropped."""
    answer = client.post(CHAT, json=ask(**fields))
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param and error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("value", [-1, "hot", True])
def test_options_out_of_range_are_refused(client: httpx.Client, value: object) -> None:
    """The library's own words reach the client."""
    answer = client.post(CHAT, json=ask(temperature=value))
    assert answer.status_code == 400
    assert "temperature" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_an_error_with_counts(
    client: httpx.Client, stream: bool
) -> None:
    """Nothing is cut off silently, and a stream is refused by its status."""
    body = ask(messages=[{"role": "user", "content": "x" * 1000}], stream=stream)
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "256" in answer.json()["error"]["message"]


def test_models_are_listed(client: httpx.Client) -> None:
    """Lists and single entries agree; a model that is not there is a 404."""
    listed = client.get("/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == ["tiny"]
    assert client.get("/v1/models/tiny").json() == listed["data"][0]
    assert client.get("/v1/models/none").status_code == 404


def test_a_full_queue_is_a_429(server: RunningServer, client: httpx.Client) -> None:
    """Two run, two wait, the next is told when to come again; all the others are answered."""
    statuses: list[int] = []
    headers: list[httpx.Headers] = []

    def run() -> None:
        with server.client() as own:
            answer = own.post(CHAT, json=ask(max_tokens=200))
            statuses.append(answer.status_code)
            headers.append(answer.headers)

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4
    refused = headers[statuses.index(429)]
    assert int(refused["retry-after"]) >= 1


def test_who_leaves_ends_its_own_text_alone(server: RunningServer, client: httpx.Client) -> None:
    """A client that goes away frees its place; a text beside it is as it would be alone."""
    body = ask(max_tokens=100)
    alone = client.post(CHAT, json=body).json()["choices"]
    with (
        server.client() as leaving,
        leaving.stream("POST", CHAT, json=ask(stream=True, max_tokens=240)) as gone,
    ):
        next(gone.iter_bytes())
        beside = threading.Thread(
            target=lambda: results.append(client.post(CHAT, json=body).json())
        )
        results: list[dict[str, Any]] = []
        beside.start()
    beside.join()
    assert results[0]["choices"] == alone
    for _ in range(200):
        if not client.get("/health").json()["running"]:
            break
    assert client.get("/health").json()["running"] == 0


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completion", CHAT[3:]),
        ("/v1/chat/completion", CHAT),
        ("/v1/v1/models", "/v1/models"),
    ],
)
def test_a_path_that_is_nearly_right_is_told(client: httpx.Client, path: str, meant: str) -> None:
    """A slip, or a base URL with /v1 twice, gets the right path in its error."""
    answer = client.post(path, json=ask())
    assert answer.status_code == 404
    assert f"did you mean {meant}?" in answer.json()["error"]["message"]
