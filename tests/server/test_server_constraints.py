"""Structured answers over real sockets, in every protocol: a tiny random model that must obey."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from harness.servers import sse_events

from edgellama.generation.text_options import TEXT_OPTION_NAMES
from edgellama.server.fields.fields import KEPT_FROM_REQUESTS

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA}}
ASKED = [{"role": "user", "content": "A number"}]


def openai(client: httpx.Client, **fields: Any) -> str:
    """The text of a chat completion."""
    body = {"messages": ASKED, "seed": 1, "max_tokens": 60, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def is_number(text: str) -> bool:
    """Whether a text follows SCHEMA."""
    value = json.loads(text)
    return list(value) == ["n"] and value["n"] in range(1, 10)


def test_a_schema_holds_in_every_protocol(client: httpx.Client) -> None:
    """Chats, completions, responses, Ollama and Anthropic keep to a schema by their own fields."""
    assert is_number(openai(client, response_format=NAMED))
    beside = {"type": "json_object", "schema": SCHEMA}
    assert is_number(openai(client, response_format=beside))
    limits = {"seed": 1, "max_tokens": 60}
    plain = client.post("/v1/completions", json={"prompt": "A", "response_format": NAMED, **limits})
    assert is_number(plain.json()["choices"][0]["text"])
    flat = {"type": "json_schema", "name": "number", "schema": SCHEMA}
    asked = {"input": "A number", "max_output_tokens": 60, "text": {"format": flat}, "seed": 1}
    response = client.post("/v1/responses", json=asked).json()
    assert is_number(response["output"][0]["content"][0]["text"])
    assert response["text"]["format"] == flat and response["status"] == "completed"
    ollama = {"model": "tiny", "messages": ASKED, "format": SCHEMA, "stream": False}
    chat = client.post("/api/chat", json={**ollama, "options": {"seed": 1, "num_predict": 60}})
    assert is_number(chat.json()["message"]["content"])
    config = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    message = client.post("/v1/messages", json={"messages": ASKED, **limits, **config})
    assert is_number(message.json()["content"][0]["text"])


def test_a_schema_holds_in_a_stream(client: httpx.Client) -> None:
    """The pieces are the text of the same request without stream."""
    body = {"messages": ASKED, "seed": 1, "max_tokens": 60, "response_format": NAMED}
    answer = client.post("/v1/chat/completions", json={**body, "stream": True})
    chunks = [content for _, content in sse_events(answer.text)[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == openai(client, response_format=NAMED)


def test_constraints_of_the_librarys_own_names(client: httpx.Client) -> None:
    """choices and regex, by the names that Python's calls have."""
    assert openai(client, choices=["yes", "no"]) in ("yes", "no")
    assert openai(client, regex="[0-9]{3}").isdigit()


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
        {"response_format": "json"},
        {"response_format": NAMED, "regex": "a"},
        {"schema": {"type": "nonsense"}},
        {"regex": "(" * 5},
        {"grammar": "start: nothing"},
    ],
)
def test_what_cannot_be_kept_is_refused(client: httpx.Client, fields: dict[str, Any]) -> None:
    """An error before the first token, streamed or not; no constraint is ever dropped."""
    for stream in (False, True):
        body = {"messages": ASKED, "max_tokens": 5, "stream": stream, **fields}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize("name", sorted(KEPT_FROM_REQUESTS))
def test_what_is_pythons_alone_is_refused(client: httpx.Client, name: str) -> None:
    """Options that take functions are no fields of a request."""
    body = {"messages": ASKED, "max_tokens": 1, name: ["x"]}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == name


def test_every_option_is_weighed() -> None:
    """Whoever adds an option of a text says here whether a request may give it."""
    for_requests = {
        *("max_tokens", "stop", "stop_tokens", "banned", "timeout", "speculation"),
        "prediction",
        *("schema", "json", "regex", "grammar", "choices", "show_schema"),
    }
    from edgellama.sampling.options import SamplingArguments

    weighed = for_requests | KEPT_FROM_REQUESTS | set(SamplingArguments.__annotations__)
    assert set(TEXT_OPTION_NAMES) == weighed
