"""Forms of requests that clients send beside the usual ones: each is taken, or refused in words."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from harness.patience import until
from harness.servers import RunningServer, raw_answer

CHAT = "/v1/chat/completions"


def ask(**fields: Any) -> dict[str, Any]:
    """A short chat with these fields."""
    return {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}


@pytest.mark.parametrize("name", ["temperature", "top_p", "seed", "max_tokens"])
def test_a_number_beyond_all_floats_is_taken_or_refused(client: httpx.Client, name: str) -> None:
    """A whole number of 400 digits is an error of its field at most, never of the server."""
    answer = client.post(CHAT, json=ask(**{name: 10**400}))
    assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize("stop", ["", [""], ["", "zzz"], []])
def test_an_empty_text_to_end_at_is_none(client: httpx.Client, stop: object) -> None:
    """Clients send it for none, in each protocol's own field."""
    texts = [stop] if isinstance(stop, str) else stop
    asked = (
        (CHAT, ask(stop=stop)),
        ("/v1/completions", {"prompt": "a", "stop": stop}),
        ("/completion", {"prompt": "a", "stop": stop, "n_predict": 1}),
        ("/api/chat", ask(options={"stop": stop, "num_predict": 1}, stream=False)),
        ("/v1/messages", ask(stop_sequences=texts)),
    )
    for path, body in asked:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text


def test_an_error_names_the_option(client: httpx.Client) -> None:
    """Also where it is found by the library, once the text is to begin."""
    for fields, name in (({"temperature": "warm"}, "temperature"), ({"seed": "a"}, "seed")):
        error = client.post(CHAT, json=ask(**fields)).json()["error"]
        assert error["param"] == name and name in error["message"]


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"stop": ["a"] * 300_000}, "300000"),
        ({"choices": [str(number) for number in range(300_000)]}, "300000"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 1025}, "1025"),
        ({"messages": [{"role": "user", "content": "a"}] * 300}, "300"),
        ({"messages": [{"role": "system", "content": "a"}] * 70_000}, "70000"),
    ],
)
def test_lists_have_an_end(client: httpx.Client, fields: dict[str, Any], number: str) -> None:
    """What would take minutes before the first token is refused with its count."""
    answer = client.post(CHAT, json=ask(**fields))
    assert answer.status_code == 400 and number in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1/models/", "//v1/models", "/v1//models", "/v1/models", "/models/"]
)
def test_slashes_too_many_are_none(server: RunningServer, path: str) -> None:
    """Base URLs that end in one give them; a client need not follow a redirection."""
    answer = raw_answer(
        server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 200") and b'"object":"list"' in answer


def test_prompts_may_be_empty(client: httpx.Client) -> None:
    """One in a list is as good as one alone."""
    answer = client.post("/v1/completions", json={"prompt": ["", "a"], "max_tokens": 1})
    assert answer.status_code == 200 and len(answer.json()["choices"]) == 2


def test_offsets_are_those_of_the_text(client: httpx.Client) -> None:
    """A token that begins every text of the model takes no room in an echoed prompt."""
    asked = {"prompt": "ab", "echo": True, "logprobs": 0, "max_tokens": 0}
    (choice,) = client.post("/v1/completions", json=asked).json()["choices"]
    offsets, tokens = choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"]
    assert offsets[:2] == [0, 0] and "".join(tokens[1:]) == choice["text"] == "ab"
    for offset, token in zip(offsets[1:], tokens[1:], strict=True):
        assert choice["text"][offset:].startswith(token)


@pytest.mark.parametrize(
    "fields", [{"function_call": "none"}, {"max_tool_calls": 3}, {"prompt_cache_options": {}}]
)
def test_fields_without_influence_are_taken(client: httpx.Client, fields: dict[str, Any]) -> None:
    """They say nothing about a text."""
    assert client.post(CHAT, json=ask(**fields)).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"web_search_options": {}}),
        (CHAT, {"audio": {"voice": "a"}}),
        (CHAT, {"function_call": {"name": "f"}}),
        ("/v1/responses", {"conversation": "conv_1"}),
        ("/v1/responses", {"context_management": [{"type": "compaction"}]}),
    ],
)
def test_what_is_known_and_not_done_is_said(
    client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    """A field of the protocol is no slip of the client's."""
    asked = ask() if path == CHAT else {"input": "a"}
    error = client.post(path, json={**asked, **fields}).json()["error"]
    assert error["code"] == "unsupported_parameter" and "not supported" in error["message"]


def test_a_response_without_input_is_refused(client: httpx.Client) -> None:
    """Unless it goes on from another."""
    answer = client.post("/v1/responses", json={"max_output_tokens": 1})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "input"
    first = client.post("/v1/responses", json={"input": "a", "max_output_tokens": 1}).json()
    more = {"previous_response_id": first["id"], "max_output_tokens": 1}
    assert client.post("/v1/responses", json=more).status_code == 200


def test_an_empty_text_has_no_vector_in_ollamas_protocol(client: httpx.Client) -> None:
    """Its clients load a model by it."""
    embedded = client.post("/api/embed", json={"model": "tiny", "input": ""})
    assert embedded.status_code == 200 and embedded.json()["embeddings"] == []
    older = client.post("/api/embeddings", json={"model": "tiny", "prompt": ""})
    assert older.status_code == 200 and older.json() == {"embedding": []}


def test_who_leaves_the_line_makes_room(server: RunningServer) -> None:
    """Work that is no text waits for its turn no longer than its client does."""
    queue = server.state.queue
    loop = server.server.servers[0].get_loop()
    places: list[Any] = []
    taken = threading.Event()

    async def take_all() -> None:
        places.extend(queue.place() for _ in range(queue.width))
        for place in places:
            await place.turn()
        taken.set()

    loop.call_soon_threadsafe(lambda: loop.create_task(take_all()))
    assert taken.wait(60)
    try:
        with server.client(), pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/embeddings", json={"input": "a"}, timeout=0.5)
        until(lambda: queue.num_waiting == 0)
    finally:
        for place in places:
            loop.call_soon_threadsafe(place.__exit__)
