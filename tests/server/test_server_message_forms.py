"""Forms of messages that are unusual, and right for some client: what the model gets to read.

Each is compared, by ``/apply-template`` or the count of its tokens, with the plain form of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server
from hypothesis import given
from hypothesis import strategies as st
from places import DATA
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.server.fields.chat_messages import MAX_MESSAGES, ordered_messages
from edgellama.server.settings import ServerSettings

USER = {"role": "user", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Easy."}]}
SAID = {"type": "text", "text": "Four."}
CUT = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"a": "x'}}


def reply(content: object, **fields: Any) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": content, **fields}


def result(content: object) -> dict[str, Any]:
    """A message of a tool."""
    return {"role": "tool", "content": content, "tool_call_id": "c1"}


@pytest.fixture(scope="module")
def server(tiny_path: Path) -> Iterator[RunningServer]:
    """A server of a tiny model."""
    with running_server(ServerSettings(models={"tiny": tiny_path}, only_given=True)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of it."""
    with server.client() as client:
        yield client


def prompt(client: httpx.Client, messages: list[dict[str, Any]]) -> str:
    """What messages become."""
    answer = client.post("/apply-template", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt"])


@pytest.mark.parametrize(
    ("form", "plain"),
    [
        ([USER, reply(None), USER], [USER, reply(""), USER]),
        ([{"role": "system", "content": "Hello"}], [USER]),
        ([{"role": "developer", "content": "Hello"}, reply("")], [USER]),
        ([USER, {"role": "assistant"}, USER], [USER, reply(""), USER]),
        ([USER, reply([]), USER], [USER, reply(""), USER]),
        ([USER, reply(None, refusal="no"), USER], [USER, reply("no"), USER]),
        ([USER, reply([{"type": "refusal", "refusal": "no"}]), USER], [USER, reply("no"), USER]),
        ([USER, reply([THOUGHT, SAID]), USER], [USER, reply("Four.", reasoning="Easy."), USER]),
        ([USER, reply("")], [USER]),
        ([USER, reply(None)], [USER]),
        ([USER, reply(" \n")], [USER]),
        (
            [USER, reply(None, tool_calls=[CALL]), result(None), USER],
            [USER, reply("", tool_calls=[CALL]), result(""), USER],
        ),
        (
            [USER, reply("", tool_calls=[CALL]), result([]), USER],
            [USER, reply("", tool_calls=[CALL]), result(""), USER],
        ),
        (
            [USER, reply(None, tool_calls=[CUT]), USER],
            [USER, reply('{"name": "f", "arguments": {"a": "x'), USER],
        ),
        (
            [USER, reply("Wait.", tool_calls=[CALL, CUT]), result("1"), USER],
            [
                USER,
                reply('Wait.\n{"name": "f", "arguments": {"a": "x', tool_calls=[CALL]),
                result("1"),
                USER,
            ],
        ),
    ],
)
def test_a_form_means_the_plain_one(
    client: httpx.Client, form: list[dict[str, Any]], plain: list[dict[str, Any]]
) -> None:
    """The model reads the same."""
    assert prompt(client, form) == prompt(client, plain)


def test_a_picture_that_a_tool_gave_is_said_in_words(client: httpx.Client) -> None:
    """An agent that has read one goes on, in every protocol; a user's picture is refused."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    text = {"type": "text", "text": "A cat."}
    called = [USER, reply("", tool_calls=[CALL])]
    shown = prompt(client, [*called, result([text, url])])
    assert "A cat.\n[image_url left out" in shown
    block = {"type": "tool_result", "tool_use_id": "c1", "content": [picture]}
    use = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}
    said = [USER, reply([use]), {"role": "user", "content": [block]}]
    answer = client.post("/v1/messages", json={"messages": said, "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    given = [{"type": "input_image", "image_url": "data:image/png;base64,"}]
    items = [
        USER,
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": given},
    ]
    asked = {"input": items, "max_output_tokens": 1, "store": False}
    assert client.post("/v1/responses", json=asked).status_code == 200
    own = client.post("/apply-template", json={"messages": [{**USER, "content": [url]}]})
    assert own.status_code == 400


SYSTEM, NEWS = {"role": "system", "content": "Be kind."}, {"role": "system", "content": "It rains."}


def test_what_the_system_says_later_stays_there(client: httpx.Client) -> None:
    """Behind the reply, before the user's words; what comes before a reply is in front."""
    early = prompt(client, [USER, SYSTEM, reply("Hi")])
    late = [USER, reply("Hi"), {**USER, "content": "Now?"}, NEWS, {**NEWS, "content": "It pours."}]
    text = prompt(client, [SYSTEM, *late])
    words = ["Be kind.", "Hello", "Hi", "It rains.\n\nIt pours.", "Now?"]
    assert early.index("Be kind.") < early.index("Hello")
    assert sorted(map(text.index, words)) == list(map(text.index, words))
    called = [USER, reply("", tool_calls=[CALL]), result("1"), NEWS]
    assert prompt(client, called).index("It rains.") > prompt(client, called).index("1")


def test_a_template_that_forbids_it_gets_it_in_front(tmp_path: Path) -> None:
    """As Mistral's, which raises at roles that do not alternate."""
    source = (DATA / "tool_templates" / "mistral-nemo.jinja").read_text()
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(chat_template=source))
    settings = ServerSettings(models={"tiny": path}, only_given=True)
    with running_server(settings) as running, running.client() as client:
        moved = prompt(client, [SYSTEM, USER, reply("Hi"), NEWS, USER])
        joined = {**SYSTEM, "content": "Be kind.\n\nIt rains."}
        assert moved == prompt(client, [joined, USER, reply("Hi"), USER])


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": None}],
        [{"role": "user"}],
        [{"role": "system", "content": None}, USER],
        [reply("")],
        [{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}],
        [USER, reply("", tool_calls=[{**CALL, "function": {"name": "f", "arguments": "[1]"}}])],
    ],
)
def test_what_says_nothing_is_refused(client: httpx.Client, messages: list[Any]) -> None:
    """A question must be one."""
    answer = client.post("/apply-template", json={"messages": messages})
    assert answer.status_code == 400 and "allowed" in answer.json()["error"]["message"]


def test_what_others_thought_is_left_out(client: httpx.Client) -> None:
    """Blocks and items of reasoning come back with a conversation that another model began."""
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Hi"},
    ]
    counts = [
        client.post("/v1/messages/count_tokens", json={"messages": [USER, message, USER]}).json()
        for message in (reply(blocks), reply("Hi"))
    ]
    assert counts[0] == counts[1] and counts[0]["input_tokens"] > 0
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    texts = [
        client.post(
            "/v1/responses",
            json={"input": items, "max_output_tokens": 3, "temperature": 0, "store": False},
        ).json()["usage"]["input_tokens"]
        for items in ([USER, thought, reply("Hi"), USER], [USER, reply("Hi"), USER])
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"reasoning_effort": "high", "include_reasoning": True}),
        ("/v1/chat/completions", {"reasoning": {"effort": "low", "enabled": True}}),
        ("/v1/chat/completions", {"verbosity": "low"}),
        ("/v1/responses", {"truncation": "auto", "text": {"verbosity": "low"}}),
        ("/v1/chat/completions", {"thinking": {"type": "enabled"}, "enable_thinking": True}),
        ("/v1/responses", {"reasoning": {"effort": "xhigh", "summary": "auto"}}),
        ("/api/chat", {"think": True}),
        ("/api/chat", {"think": "medium"}),
        ("/api/chat", {"think": False}),
    ],
)
def test_leave_to_think_changes_no_reply(
    client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    """Agents give it to any model: it is taken in all protocols' words; the text is the same."""
    asked: dict[str, Any] = {"messages": [USER], "temperature": 0, "stream": False}
    asked |= {"options": {"num_predict": 3}} if path.startswith("/api") else {"max_tokens": 3}
    if path == "/v1/responses":
        asked = {"input": [USER], "temperature": 0, "max_output_tokens": 3, "store": False}
    texts = []
    for body in (asked, {**asked, **fields}):
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        texts.append(said.get("choices") or said.get("message") or said["output"][0]["content"])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("field", "same"),
    [
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_p": 0}, {"top_k": 1}),
        ({"seed": -5}, {"seed": 2**64 - 5}),
    ],
)
def test_numbers_that_are_right_elsewhere(
    client: httpx.Client, field: dict[str, Any], same: dict[str, Any]
) -> None:
    """They mean what they mean there, in OpenAI's and in Ollama's protocol."""
    base = {"temperature": 1.5, "seed": 1, "max_tokens": 8}
    chat = {"messages": [USER]}
    texts = [
        client.post("/v1/chat/completions", json={**chat, **base, **fields}).json()["choices"]
        for fields in (field, same)
    ]
    assert texts[0] == texts[1]
    if "seed" not in field:
        asked = {**chat, "model": "tiny", "stream": False}
        told = [
            client.post("/api/chat", json={**asked, "options": {**base, **fields}}).json()
            for fields in (field, same)
        ]
        assert told[0]["message"] == told[1]["message"]


@given(st.lists(st.sampled_from("suat"), min_size=1, max_size=12))
def test_each_message_of_the_system_has_its_place(kinds: str) -> None:
    """In front before any reply, then behind the last word that is not the user's."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    said = [{"role": roles[kind], "content": str(i)} for i, kind in enumerate(kinds)]
    expected: list[dict[str, Any]] = []
    front: list[str] = []
    for message in said:
        if message["role"] != "system":
            expected.append(dict(message))
        elif not any(turn["role"] == "assistant" for turn in expected):
            front.append(message["content"])
        else:
            place = len(expected)
            while expected[place - 1]["role"] == "user":
                place -= 1
            if expected[place - 1]["role"] == "system":
                expected[place - 1]["content"] += "\n\n" + message["content"]
            else:
                expected.insert(place, dict(message))
    own = {"role": "system" if expected else "user", "content": "\n\n".join(front)}
    assert ordered_messages(said) == ([own, *expected] if front else expected)


def test_many_messages_of_the_system_are_ordered_in_one_pass() -> None:
    """As many as a request may have: each is looked at once, whatever stands before it."""
    said = [reply("Hi"), *[USER] * (MAX_MESSAGES // 2 - 1), *[NEWS] * (MAX_MESSAGES // 2)]
    ordered = ordered_messages(said)
    assert [turn["role"] for turn in ordered[:3]] == ["assistant", "system", "user"]
    assert ordered[1]["content"].count("It rains.") == MAX_MESSAGES // 2
