"""Anthropic's protocol over real sockets: a tiny random model, served by a thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events

from edgellama.server.settings import ServerSettings

PATH = "/v1/messages"
ASKED = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[RunningServer]:
    """A server of the tiny model alone, with a key."""
    settings = ServerSettings(models={"tiny": tiny_path}, only_given=True, api_keys=("secret",))
    with running_server(settings) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of the server, with its key as Anthropic's clients send it."""
    with server.client(headers={"x-api-key": "secret"}) as client:
        yield client


def ask(**fields: Any) -> dict[str, Any]:
    """The body of a small request."""
    return {"model": "tiny", "max_tokens": 6, "temperature": 0, "messages": ASKED, **fields}


def test_a_message_has_the_form_that_clients_need(client: httpx.Client) -> None:
    """Content is a list of blocks, the reason and the counts are Anthropic's."""
    answer = client.post(PATH, json=ask()).json()
    assert answer["type"] == "message" and answer["role"] == "assistant"
    assert answer["stop_reason"] == "max_tokens" and answer["stop_sequence"] is None
    assert [block["type"] for block in answer["content"]] == ["text"]
    assert answer["usage"]["output_tokens"] == 6
    counted = client.post(f"{PATH}/count_tokens", json={"model": "tiny", "messages": ASKED}).json()
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == counted["input_tokens"]


def test_a_stream_has_the_events_in_order(client: httpx.Client) -> None:
    """Every event has its name twice; the text is that of the whole message."""
    whole = client.post(PATH, json=ask()).json()
    events = sse_events(client.post(PATH, json=ask(stream=True)).text)
    assert all(name == content["type"] for name, content in events)
    names = [name for name, _ in events if name != "ping"]
    deltas = names.count("content_block_delta")
    assert names == [
        *("message_start", "content_block_start"),
        *["content_block_delta"] * deltas,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    by_name = dict(events)
    text = "".join(
        content["delta"]["text"] for name, content in events if name == "content_block_delta"
    )
    assert text == whole["content"][0]["text"]
    start = by_name["message_start"]["message"]
    assert start["content"] == [] and start["stop_reason"] is None
    assert start["usage"]["input_tokens"] > 0
    assert by_name["message_delta"]["delta"]["stop_reason"] == whole["stop_reason"]
    assert by_name["message_delta"]["usage"]["output_tokens"] == 6


def test_a_stop_sequence_is_named(client: httpx.Client) -> None:
    """The reason says that one matched, and which."""
    text = client.post(PATH, json=ask()).json()["content"][0]["text"]
    stop = text[len(text) // 2 :][:2]
    answer = client.post(PATH, json=ask(stop_sequences=["never", stop])).json()
    assert answer["stop_reason"] == "stop_sequence" and answer["stop_sequence"] == stop
    assert answer["content"][0]["text"] == text.partition(stop)[0]


def test_a_system_prompt_is_part_of_the_prompt(client: httpx.Client) -> None:
    """As a text and as blocks it counts the same."""

    def count(**fields: Any) -> int:
        body = {"model": "tiny", "messages": ASKED, **fields}
        return int(client.post(f"{PATH}/count_tokens", json=body).json()["input_tokens"])

    blocks = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert count() < count(system="Be brief.") == count(system=blocks)


def test_leave_to_think_is_leave(client: httpx.Client) -> None:
    """Claude Code gives it to every model; a Llama's reply is what it is without, in one block."""
    plain = client.post(PATH, json=ask()).json()
    edits = [{"type": "clear_thinking_20251015", "keep": "all"}]
    for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}):
        leave = {"thinking": thinking, "context_management": {"edits": edits}}
        asked = ask(**leave, output_config={"effort": "high"})
        assert client.post(f"{PATH}?beta=true", json=asked).json()["content"] == plain["content"]
        body = {"model": "tiny", "messages": ASKED}
        counted = client.post(f"{PATH}/count_tokens", json={**body, **leave}).json()
        assert counted == client.post(f"{PATH}/count_tokens", json=body).json()


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"max_tokens": "x"}, 400, "invalid_request_error"),
        ({"thinking": {"type": "hard"}}, 400, "invalid_request_error"),
        ({"tools": [{"type": ["x"], "name": "a"}]}, 400, "invalid_request_error"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            400,
            "invalid_request_error",
        ),
        ({"output_config": {"speed": "fast"}}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "x" * 999}]}, 400, "invalid_request_error"),
        ({"model": "none"}, 404, "not_found_error"),
    ],
)
def test_errors_have_their_shape(
    client: httpx.Client, fields: dict[str, Any], status: int, kind: str
) -> None:
    """Each error is named as Anthropic names it."""
    answer = client.post(PATH, json=ask(**fields))
    assert answer.status_code == status
    assert answer.json()["type"] == "error" and answer.json()["error"]["type"] == kind


def test_a_wrong_key_has_its_shape(server: RunningServer) -> None:
    """Without the key there is an authentication_error, and no text."""
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer secre"}):
        with server.client(headers=headers) as stranger:
            answer = stranger.post(PATH, json=ask())
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"


def test_counting_takes_what_a_message_takes(client: httpx.Client) -> None:
    """A schema is shown in the prompt, so it counts; the older name of its field is known."""
    schema = {"type": "json_schema", "schema": {"type": "integer"}}
    fields = ({"output_config": {"format": schema}}, {"output_format": schema})
    counts = []
    for more in ({"output_config": {"effort": "low"}, "speed": "standard"}, *fields):
        body = {"messages": [{"role": "user", "content": "hi"}], **more}
        answer = client.post("/v1/messages/count_tokens", json=body)
        assert answer.status_code == 200, answer.text
        counts.append(answer.json()["input_tokens"])
        told = client.post("/v1/messages", json={**body, "max_tokens": 1}).json()["usage"]
        assert counts[-1] == told["input_tokens"] + told["cache_read_input_tokens"]
    assert counts[0] < counts[1] == counts[2]


def test_shared_paths_have_the_shape_of_who_asks(client: httpx.Client) -> None:
    """Errors at a path of both protocols are Anthropic's where its header is sent."""
    headers = {"anthropic-version": "2023-06-01"}
    told = client.get("/v1/models/none", headers=headers).json()
    assert told["type"] == "error" and told["error"]["type"] == "not_found_error"
    assert client.get("/v1/models/none").json()["error"]["code"] == "model_not_found"


def test_a_thread_is_refused_so_that_clients_go_on_without_it(client: httpx.Client) -> None:
    """Tool runners of Anthropic's packages ask for a thread first, and look for this code."""
    answer = client.post(PATH, json=ask(thread={"type": "create"}))
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert "details" not in client.post(PATH, json=ask(messages=[])).json()["error"]
