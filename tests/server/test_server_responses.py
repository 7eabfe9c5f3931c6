"""OpenAI's responses over real sockets: a tiny random model, and a file of kept responses."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events

from edgellama.server.settings import ServerSettings
from edgellama.server.stores import response_store
from edgellama.server.stores.response_store import MAX_AGE_S, ResponseStore

PATH = "/v1/responses"


@pytest.fixture(scope="module")
def settings(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    """Settings of a server with a file of its own."""
    store = tmp_path_factory.mktemp("store") / "folder" / "responses.sqlite"
    return ServerSettings(models={"tiny": tiny_path}, only_given=True, store=store)


@pytest.fixture(scope="module")
def server(settings: ServerSettings) -> Iterator[RunningServer]:
    """A server of the tiny model alone."""
    with running_server(settings) as running:
        yield running


def ask(**fields: Any) -> dict[str, Any]:
    """The body of a small request."""
    return {"model": "tiny", "max_output_tokens": 6, "temperature": 0, "input": "Hello", **fields}


def text_of(response: dict[str, Any]) -> str:
    """The text of a response."""
    (item,) = response["output"]
    return "".join(part["text"] for part in item["content"])


def test_a_response_has_the_text_of_a_chat(client: httpx.Client) -> None:
    """The same prompt gives the same text in both of OpenAI's protocols."""
    response = client.post(PATH, json=ask()).json()
    messages = [{"role": "user", "content": "Hello"}]
    body = {"messages": messages, "max_tokens": 6, "temperature": 0}
    chat = client.post("/v1/chat/completions", json=body).json()
    assert text_of(response) == chat["choices"][0]["message"]["content"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 6


def test_a_response_is_gone_on_with(client: httpx.Client, server: RunningServer) -> None:
    """previous_response_id stands for all that was said, twice over, without its instructions."""
    first = client.post(PATH, json=ask(instructions="Be brief.")).json()
    second = client.post(PATH, json=ask(previous_response_id=first["id"], input="And?")).json()
    said = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "output_text", "text": text_of(first)}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
    ]
    whole = client.post(PATH, json=ask(input=said)).json()
    assert text_of(second) == text_of(whole)
    assert second["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    third = client.post(PATH, json=ask(previous_response_id=second["id"])).json()
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]


def test_a_stream_numbers_its_events(client: httpx.Client) -> None:
    """Events come in order, with the text in pieces and whole, and the response is kept."""
    whole = client.post(PATH, json=ask()).json()
    events = sse_events(client.post(PATH, json=ask(stream=True)).text)
    assert [content["sequence_number"] for _, content in events] == list(range(len(events)))
    assert all(name == content["type"] for name, content in events)
    names = [name for name, _ in events if name != "response.output_text.delta"]
    assert names == [
        *("response.created", "response.in_progress", "response.output_item.added"),
        *("response.content_part.added", "response.output_text.done"),
        *("response.content_part.done", "response.output_item.done", "response.incomplete"),
    ]
    deltas = [content["delta"] for name, content in events if name == "response.output_text.delta"]
    last = events[-1][1]["response"]
    assert "".join(deltas) == text_of(last) == text_of(whole)
    assert client.get(f"{PATH}/{last['id']}").json() == last


def test_responses_are_found_and_forgotten(client: httpx.Client) -> None:
    """A kept response is found until it is deleted; one that is not kept is not."""
    kept = client.post(PATH, json=ask(metadata={"a": "b"})).json()
    assert client.get(f"{PATH}/{kept['id']}").json() == kept and kept["metadata"] == {"a": "b"}
    assert client.delete(f"{PATH}/{kept['id']}").json()["deleted"] is True
    loose = client.post(PATH, json=ask(store=False)).json()
    for name in (kept["id"], loose["id"]):
        assert client.get(f"{PATH}/{name}").status_code == 404
        answer = client.post(PATH, json=ask(previous_response_id=name))
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "previous_response_not_found"


def test_what_a_response_was_made_from_is_listed(client: httpx.Client) -> None:
    """Items of all that was said before it, in both orders and on pages, with ids that stay."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "x"}
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    parts = [{"type": "input_text", "text": "hi"}, {"type": "input_text", "text": "ho"}]
    said = [refusal, {"role": "user", "content": parts}, call, result, call]
    first = client.post(PATH, json=ask(input=said)).json()
    second = client.post(PATH, json=ask(previous_response_id=first["id"], input="more")).json()
    place = f"{PATH}/{second['id']}/input_items"
    page = client.get(place, params={"order": "asc"}).json()
    kinds = [item["type"] for item in page["data"]]
    assert kinds == [
        *("message", "message", "function_call", "function_call_output", "function_call"),
        *("message", "message"),
    ]
    assert [item["content"][0]["text"] for item in page["data"] if "content" in item] == [
        *("no", "hi\nho", text_of(first), "more"),
    ]
    assert page["data"][2]["call_id"] == page["data"][3]["call_id"] == "c1"
    ids = [item["id"] for item in page["data"]]
    assert len(set(ids)) == 7 and not page["has_more"] and page["last_id"] == ids[-1]
    rest = client.get(place, params={"after": ids[4], "limit": 2}).json()
    assert [item["id"] for item in rest["data"]] == [ids[3], ids[2]] and rest["has_more"]
    for wrong in ({"order": "up"}, {"limit": "0"}, {"limit": "\u00b2"}, {"after": "x"}):
        assert client.get(place, params=wrong).status_code == 400
    assert client.get(f"{PATH}/resp_none/input_items").status_code == 404


def test_an_input_is_counted(client: httpx.Client) -> None:
    """As the response counts it, with what is gone on from."""
    first = client.post(PATH, json=ask()).json()
    for fields in ({}, {"instructions": "Be brief."}, {"previous_response_id": first["id"]}):
        asked = {"model": "tiny", "input": "Hello", **fields}
        counted = client.post(f"{PATH}/input_tokens", json=asked).json()
        made = client.post(PATH, json=ask(**fields)).json()
        assert counted["object"] == "response.input_tokens"
        assert counted["input_tokens"] == made["usage"]["input_tokens"]


def test_a_response_that_has_ended_is_not_cancelled(client: httpx.Client) -> None:
    """Only those in the background can be, and there are none."""
    made = client.post(PATH, json=ask()).json()
    assert client.post(f"{PATH}/{made['id']}/cancel").status_code == 400
    assert client.post(f"{PATH}/resp_none/cancel").status_code == 404


def test_responses_outlive_the_server(client: httpx.Client, settings: ServerSettings) -> None:
    """Another server with the same file goes on; the file is its owner's alone."""
    first = client.post(PATH, json=ask()).json()
    with running_server(settings) as other, other.client() as second:
        answer = second.post(PATH, json=ask(previous_response_id=first["id"]))
    assert answer.status_code == 200
    assert settings.store is not None
    if os.name == "posix":
        assert stat.S_IMODE(settings.store.stat().st_mode) == 0o600


def test_old_responses_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is older than a month is forgotten when something new is kept."""
    store = ResponseStore(tmp_path / "responses.sqlite")
    monkeypatch.setattr("time.time", lambda: 0.0)
    asyncio.run(store.save({"id": "old"}, []))
    monkeypatch.setattr("time.time", lambda: MAX_AGE_S + 1)
    asyncio.run(store.save({"id": "new"}, []))
    assert asyncio.run(store.find("old")) is None
    assert asyncio.run(store.find("new")) == ({"id": "new"}, [])
    store.close()


def test_the_oldest_go_where_all_take_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of kept responses does not fill the disk; the latest is always there."""
    limit = 200_000
    monkeypatch.setattr(response_store, "MAX_BYTES", limit)
    path = tmp_path / "responses.sqlite"
    store = ResponseStore(path)
    messages = [{"role": "user", "content": "a" * 30_000}]
    for number in range(40):
        asyncio.run(store.save({"id": str(number)}, messages))
        assert asyncio.run(store.find(str(number))) == ({"id": str(number)}, messages)
    kept = [number for number in range(40) if asyncio.run(store.find(str(number))) is not None]
    assert kept == list(range(kept[0], 40)) and len(kept) >= 4
    store.close()
    assert path.stat().st_size < 2 * limit


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_cannot_be_kept_is_told(tiny_path: Path, tmp_path: Path, is_stream: bool) -> None:
    """The file and the reason, before anything is made; who wants nothing kept is answered."""
    (tmp_path / "file").write_text("no folder")
    settings = ServerSettings(
        models={"tiny": tiny_path}, only_given=True, store=tmp_path / "file" / "responses.sqlite"
    )
    with running_server(settings) as server, server.client() as client:
        answer = client.post(PATH, json=ask(stream=is_stream))
        assert answer.status_code == 507 and not server.state.metrics.counts["texts"]
        assert "responses.sqlite cannot be used" in answer.text and "storage" in answer.text
        assert str(tmp_path) not in answer.text
        assert client.post(PATH, json=ask(stream=is_stream, store=False)).status_code == 200
        assert client.get(f"{PATH}/resp_1").status_code == 507


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{"type": "reasoning"}]},
        {"input": []},
        {"tools": [{"type": "mcp"}]},
        {"tools": [{"type": ["function"]}]},
        {"tools": [{"type": {}}]},
        {"tools": [{"type": "web_search"}], "tool_choice": "required"},
        {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        {"background": True},
        {"truncation": "middle"},
        {"text": {"format": {"type": "xml"}}},
    ],
)
def test_what_cannot_be_obeyed_is_refused(client: httpx.Client, fields: dict[str, Any]) -> None:
    """A field that cannot be obeyed is a 400 in OpenAI's shape."""
    answer = client.post(PATH, json=ask(**fields))
    assert answer.status_code == 400 and answer.json()["error"]["message"]
