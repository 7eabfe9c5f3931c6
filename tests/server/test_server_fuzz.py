"""Requests of every protocol with something wrong at any place inside them, over real sockets.

The bodies say all that clients say; what is put into them is chosen at random.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.server.settings import Limits, ServerSettings

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "enum": ["x", "y"]},
        "b": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "c": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/t"}]},
    },
    "required": ["a"],
    "$defs": {"t": {"type": "string", "format": "date"}},
}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "x"}'}}
CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "ok"},
    {"role": "user", "content": "go"},
]
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "/v1/chat/completions",
        {
            "messages": CHAT,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 2,
            "logit_bias": {"5": 1},
            "stop": ["a"],
            "prediction": {"type": "content", "content": "x"},
            "chat_template_kwargs": {"a": 1},
            "keep_alive": "5m",
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": CHAT[:2],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
            },
        },
    ),
    ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 1, "echo": True, "stop": ["x"]}),
    (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "x"},
            ],
            "instructions": "s",
            "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
            "include": ["message.output_text.logprobs"],
            "metadata": {"a": "b"},
        },
    ),
    ("/v1/rerank", {"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1}),
    (
        "/api/chat",
        {
            "model": "tiny",
            "messages": [
                {"role": "user", "content": "hi", "images": []},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
                {"role": "tool", "content": "ok", "tool_name": "f"},
            ],
            "tools": [TOOL],
            "options": {"temperature": 0.5, "stop": ["a"], "num_ctx": 100},
            "format": SCHEMA,
            "keep_alive": 300,
            "think": False,
            "stream": False,
        },
    ),
    ("/api/generate", {"prompt": "a", "options": {"seed": 2}, "context": [1, 2], "stream": False}),
    (
        "/v1/messages",
        {
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": "x"}}],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "1", "content": "ok"}],
                },
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
            "tool_choice": {"type": "auto"},
            "max_tokens": 2,
            "stop_sequences": ["a"],
            "thinking": {"type": "disabled"},
        },
    ),
    (
        "/completion",
        {
            "prompt": ["a", [1, 2]],
            "n_predict": 1,
            "n_probs": 1,
            "json_schema": {"type": "integer"},
            "samplers": ["top_k"],
            "logit_bias": [[5, 1], ["a", False]],
        },
    ),
    ("/infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"text": "x"}]}),
    ("/apply-template", {"messages": CHAT, "tools": [TOOL], "chat_template_kwargs": {"a": 1}}),
    ("/embedding", {"content": ["a", "b"]}),
    ("/tokenize", {"content": "a", "with_pieces": True}),
    ("/detokenize", {"tokens": [1, 2]}),
    ("/api/show", {"model": "tiny"}),
    ("/page/chat", {"conversation": None, "parent": None, "content": "hi", "system": "s"}),
)
WRONG = (
    *("null", "true", "[]", "{}", "[null]", '{"a": []}', '""', '"a"', '"auto"', '"json"'),
    *("0", "-1", "1.5", "3.0", "1e308", "1e999", "9" * 40, "NaN", "18446744073709551616"),
    *('"\\ud800"', '"\\u0000"', '"root ::= root"', '"^(a+)+$"', '"{{ 7 * 7 }}"', '{"$ref": "#"}'),
    *('{"type": "object"}', '{"type": "text"}', '[{"type": "text", "text": 5}]', "[[[[[[]]]]]]"),
)
"""Values as JSON, and some that are none."""
PLACE = "@@"


def places(body: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a body, as the keys that lead to it."""
    if isinstance(body, (dict, list)):
        for key in body if isinstance(body, dict) else range(len(body)):
            yield (*before, key)
            yield from places(body[key], (*before, key))


PLACES = [(path, body, place) for path, body in BODIES for place in places(body)]


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose texts are short."""
    store = tmp_path_factory.mktemp("fuzz") / "responses.sqlite"
    limits = Limits(max_tokens=2)
    models = {"tiny": tiny_path}
    with running_server(
        ServerSettings(models=models, only_given=True, limits=limits, store=store)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def talk(server: RunningServer) -> Iterator[httpx.Client]:
    """A client for all of them."""
    with server.client() as client:
        yield client


def with_wrong(body: Mapping[str, Any], place: tuple[Any, ...], value: str) -> str:
    """The body with a value at one place."""
    changed = json.loads(json.dumps(body))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = PLACE
    return json.dumps(changed).replace(f'"{PLACE}"', value)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(WRONG))
def test_a_wrong_value_anywhere_is_told_in_the_protocols_words(
    talk: httpx.Client, chosen: tuple[str, dict[str, Any], tuple[Any, ...]], value: str
) -> None:
    """The answer is one, or a refusal in words; no place has an error inside the server."""
    path, body, place = chosen
    answer = talk.post(path, content=with_wrong(body, place, value))
    assert answer.status_code in (200, 400, 404), (path, place, value, answer.text)
    if answer.status_code != 200:
        told = answer.json()["error"]
        assert told if isinstance(told, str) else told["message"]


def test_a_part_of_a_strange_type_is_refused(talk: httpx.Client) -> None:
    """A type may be anything that JSON knows."""
    part = {"type": {"a": []}, "text": "hi"}
    asked = {"input": [{"role": "user", "content": [part]}]}
    answer = talk.post("/v1/responses", json=asked)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", [[], {"a": []}, 5, None])
def test_a_block_of_a_strange_type_is_refused(talk: httpx.Client, kind: object) -> None:
    """Anthropic's parts are asked for their type, too."""
    messages = [{"role": "user", "content": [{"type": kind, "text": "hi"}]}]
    answer = talk.post("/v1/messages", json={"messages": messages, "max_tokens": 1})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize("value", ["0", '"json"', "[]", "true", "1.5"])
@pytest.mark.parametrize(
    ("path", "place"),
    [("/v1/chat/completions", ("response_format",)), ("/v1/responses", ("text", "format"))],
)
def test_a_format_is_an_object(
    talk: httpx.Client, path: str, place: tuple[str, ...], value: str
) -> None:
    """Anything else is refused by its name, even what counts as nothing."""
    bodies = [body for known, body in BODIES if known == path and place[0] in body]
    answer = talk.post(path, content=with_wrong(bodies[0], place, value))
    assert answer.status_code == 400 and place[0] in answer.json()["error"]["message"]
