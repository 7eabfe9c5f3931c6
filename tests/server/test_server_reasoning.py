"""A model that thinks, over real sockets: where each protocol asks for it, and tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events
from reference.thinking_model import ANSWER, THOUGHT, UNOPENED, write_thinking_model

from edgellama.generation.results import Chunk, Generation, Statistics, TokenLogprob
from edgellama.models.made import NO_PRESET
from edgellama.server.answers.events import Ended, Piece
from edgellama.server.fields.log_probabilities import text_logprobs
from edgellama.server.fields.thinking import ThinkingWish, thinking_wish
from edgellama.server.openai.response_stream import ResponseStream
from edgellama.server.openai.responses import ResponseObject, ResponseRequest
from edgellama.server.settings import Limits, ServerSettings

ASKED = [{"role": "user", "content": "What is 2 + 2?"}]
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
ENABLED = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
NUMBER = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2, 3]}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": NUMBER},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of models whose prompts open thinking, or do not."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "thinker": write_thinking_model(folder / "thinker.gguf"),
        "unopened": write_thinking_model(folder / "unopened.gguf", UNOPENED),
    }
    settings = ServerSettings(models=models, only_given=True, store=folder / "responses.sqlite")
    with running_server(settings) as running:
        yield running


def said(client: httpx.Client, path: str, **fields: Any) -> Any:
    """The answer to a question, which must be one."""
    body = {"messages": ASKED, "temperature": 0, "stream": False, **fields}
    if path == MESSAGES:
        body = {"max_tokens": 100, **body}
    if path == RESPONSES:
        del body["messages"]
        body = {"input": "What is 2 + 2?", **body}
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return sse_events(answer.text) if body["stream"] is True else answer.json()


@pytest.mark.parametrize("model", ["thinker", "unopened"])
def test_chats_tell_thinking_beside_the_content(client: httpx.Client, model: str) -> None:
    """Under both names that clients know, counted in the usage, whole and in deltas alike."""
    whole = said(client, CHAT, model=model)
    message = whole["choices"][0]["message"]
    assert message["content"] == ANSWER
    assert message["reasoning_content"] == message["reasoning"] == THOUGHT
    counts = whole["usage"]
    thought = counts["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < thought < counts["completion_tokens"]
    options = {"include_usage": True}
    events = said(client, CHAT, model=model, stream=True, stream_options=options)
    chunks = [event for _, event in events if event != "[DONE]"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == THOUGHT
    assert "".join(delta.get("reasoning", "") for delta in deltas) == THOUGHT
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER
    kinds = ["reasoning" in delta for delta in deltas if delta and "role" not in delta]
    assert kinds == sorted(kinds, reverse=True)
    assert chunks[-1]["usage"] == counts


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({"reasoning_effort": "high"}, THOUGHT),
        ({"reasoning": {"effort": "none"}}, None),
        ({"reasoning_effort": "none"}, None),
        ({"reasoning": {"enabled": False}}, None),
        ({"thinking": {"type": "disabled"}}, None),
        ({"enable_thinking": False}, None),
        ({"think": False}, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, None),
        ({"think": True}, THOUGHT),
        ({"include_reasoning": False}, None),
        ({"reasoning": {"exclude": True}}, None),
    ],
)
@pytest.mark.parametrize("model", ["thinker", "unopened"])
def test_chats_ask_for_thinking_in_many_words(
    client: httpx.Client, model: str, fields: dict[str, Any], reasoning: str | None
) -> None:
    """Whoever switches it off, or does not want to be told, gets the answer alone."""
    whole = said(client, CHAT, model=model, **fields)
    message = whole["choices"][0]["message"]
    assert (message["content"], message.get("reasoning_content")) == (ANSWER, reasoning)
    thought = whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    is_hidden = "include_reasoning" in fields or fields.get("reasoning", {}).get("exclude")
    assert bool(thought) == (reasoning is not None or bool(is_hidden))
    events = said(client, CHAT, model=model, stream=True, **fields)
    deltas = [event["choices"][0]["delta"] for _, event in events if event != "[DONE]"]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == (reasoning or "")
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER


def test_llama_cpps_raw_format_leaves_thinking_in_the_text(client: httpx.Client) -> None:
    """``reasoning_format`` "none" tells nothing apart."""
    message = said(client, CHAT, model="unopened", reasoning_format="none")["choices"][0]["message"]
    assert message["content"] == f"<think>\n{THOUGHT}</think>\n\n{ANSWER}"
    assert "reasoning_content" not in message


def test_forms_and_tools_come_behind_thinking(client: httpx.Client) -> None:
    """A schema holds for the content, and a call that must be is made, each after a thought."""
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": NUMBER}}
    message = said(client, CHAT, response_format=form, seed=1)["choices"][0]["message"]
    assert list(json.loads(message["content"])) == ["a"]
    assert message["reasoning"] == THOUGHT
    choice = said(client, CHAT, tools=[TOOL], tool_choice="required", seed=1)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "add"
    assert choice["message"]["reasoning"] == THOUGHT


def test_messages_have_blocks_of_thinking_where_it_is_enabled(client: httpx.Client) -> None:
    """A signed block comes first; without leave to think the model is asked not to."""
    whole = said(client, MESSAGES, **ENABLED)
    thought, text = whole["content"]
    assert (thought["type"], thought["thinking"]) == ("thinking", THOUGHT)
    assert thought["signature"]
    assert text == {"type": "text", "text": ANSWER}
    assert whole["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    plain = said(client, MESSAGES)
    assert plain["content"] == [{"type": "text", "text": ANSWER}]
    assert plain["usage"]["output_tokens"] < whole["usage"]["output_tokens"]
    hidden = said(client, MESSAGES, thinking={"type": "adaptive", "display": "omitted"})
    assert [block.get("thinking") for block in hidden["content"]] == ["", None]
    again = [*ASKED, {"role": "assistant", "content": whole["content"]}, *ASKED]
    assert said(client, MESSAGES, messages=again, **ENABLED)["content"][1] == text


def test_messages_stream_thinking_in_blocks(client: httpx.Client) -> None:
    """Blocks are numbered, each begins and ends once, and a signature ends what was thought."""
    events = said(client, MESSAGES, stream=True, **ENABLED)
    names = [name for name, _ in events if name != "ping"]
    assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"]
    blocks: dict[int, list[Any]] = {}
    for name, event in events:
        if name is not None and name.startswith("content_block"):
            blocks.setdefault(event["index"], []).append(event)
    assert list(blocks) == [0, 1]
    thinking, text = blocks.values()
    assert thinking[0]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    kinds = [event["delta"]["type"] for event in thinking[1:-1]]
    assert kinds == ["thinking_delta"] * (len(kinds) - 1) + ["signature_delta"]
    assert "".join(event["delta"].get("thinking", "") for event in thinking[1:-1]) == THOUGHT
    assert "".join(event["delta"]["text"] for event in text[1:-1]) == ANSWER
    signed = thinking[-2]["delta"]["signature"]
    assert signed == said(client, MESSAGES, **ENABLED)["content"][0]["signature"]
    assert thinking[-1]["type"] == text[-1]["type"] == "content_block_stop"
    plain = said(client, MESSAGES, stream=True)
    assert not any("thinking" in json.dumps(event) for _, event in plain)


def test_counting_tokens_counts_the_same_prompt(client: httpx.Client) -> None:
    """What is counted is the prompt that is computed, with and without leave to think."""
    for fields in (ENABLED, {}):
        body = {"messages": ASKED, **fields}
        counted = client.post(f"{MESSAGES}/count_tokens", json=body).json()["input_tokens"]
        usage = said(client, MESSAGES, **fields)["usage"]
        assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_responses_have_an_item_of_reasoning(client: httpx.Client) -> None:
    """It stands before the message, is counted, and may be sent back."""
    whole = said(client, RESPONSES)
    thought, message = whole["output"]
    assert thought["type"] == "reasoning" and thought["summary"] == []
    assert thought["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    assert message["content"][0]["text"] == ANSWER
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    items = [*ASKED, thought, message, *ASKED]
    assert said(client, RESPONSES, input=items)["output"][1]["content"][0]["text"] == ANSWER
    later = said(client, RESPONSES, previous_response_id=whole["id"])
    assert [item["type"] for item in later["output"]] == ["reasoning", "message"]
    quick = said(client, RESPONSES, reasoning={"effort": "none"})
    assert [item["type"] for item in quick["output"]] == ["message"]


def test_responses_stream_reasoning_before_the_message(client: httpx.Client) -> None:
    """Every item begins and ends at its own place, in the order of the whole response."""
    include = ["message.output_text.logprobs"]
    events = said(client, RESPONSES, stream=True, include=include)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    added = [event for name, event in events if name == "response.output_item.added"]
    assert [(each["output_index"], each["item"]["type"]) for each in added] == [
        (0, "reasoning"),
        (1, "message"),
    ]
    deltas = [event for name, event in events if name == "response.reasoning_text.delta"]
    assert "".join(event["delta"] for event in deltas) == THOUGHT
    texts = [event for name, event in events if name == "response.output_text.delta"]
    assert "".join(event["delta"] for event in texts) == ANSWER
    assert {event["output_index"] for event in texts} == {1}
    done = [event["item"] for name, event in events if name == "response.output_item.done"]
    last = events[-1][1]["response"]
    assert done == last["output"]
    told = [found["token"] for event in texts for found in event["logprobs"]]
    part = last["output"][1]["content"][0]
    assert "".join(told) == "".join(found["token"] for found in part["logprobs"])
    assert "".join(told).strip() == ANSWER


def test_ollama_has_a_field_of_thinking(client: httpx.Client) -> None:
    """In chats beside the content, in texts beside the response, unless think is false."""
    whole = said(client, "/api/chat", model="thinker")["message"]
    assert (whole["content"], whole["thinking"]) == (ANSWER, THOUGHT)
    assert "thinking" not in said(client, "/api/chat", model="thinker", think=False)["message"]
    answer = client.post("/api/chat", json={"model": "thinker", "messages": ASKED, "think": "low"})
    lines = [json.loads(line)["message"] for line in answer.text.splitlines()]
    assert "".join(line.get("thinking", "") for line in lines) == THOUGHT
    assert "".join(line["content"] for line in lines) == ANSWER
    asked = {"model": "thinker", "prompt": "What is 2 + 2?", "stream": False}
    text = client.post("/api/generate", json=asked).json()
    assert (text["response"], text["thinking"]) == (ANSWER, THOUGHT)
    off = client.post("/api/generate", json={**asked, "think": False}).json()
    assert off["response"] == ANSWER and "thinking" not in off
    by_option = client.post("/api/generate", json={**asked, "options": {"think": False}}).json()
    assert by_option["response"] == ANSWER and "thinking" not in by_option
    raw = client.post("/api/generate", json={**asked, "raw": True, "think": False})
    assert raw.status_code == 200
    shown = client.post("/api/show", json={"model": "thinker"}).json()
    assert "thinking" in shown["capabilities"]


def test_thoughts_that_clients_send_back_are_no_part_of_the_prompt(client: httpx.Client) -> None:
    """The template leaves them out, whatever they are called."""
    reply = {"role": "assistant", "content": ANSWER}
    counts = []
    for more in ({}, {"reasoning_content": "x" * 99}, {"thinking": "y"}, {"reasoning": "z"}):
        messages = [*ASKED, {**reply, **more}, *ASKED]
        counts.append(said(client, CHAT, messages=messages)["usage"]["prompt_tokens"])
    assert len(set(counts)) == 1


@pytest.mark.parametrize(
    ("body", "wish"),
    [
        ({}, ThinkingWish()),
        ({"think": "none"}, ThinkingWish(False)),
        ({"think": "high"}, ThinkingWish(True)),
        ({"thinking": {"type": "adaptive"}}, ThinkingWish()),
        ({"reasoning": {"max_tokens": 100}}, ThinkingWish(max_tokens=100)),
        ({"reasoning_budget": -1, "max_reasoning_tokens": 0}, ThinkingWish(max_tokens=0)),
        ({"thinking_token_budget": 7, "reasoning_format": "none"}, ThinkingWish("raw")),
        ({"max_reasoning_tokens": True}, ThinkingWish()),
        ({"reasoning": {"enabled": True, "effort": "none"}}, ThinkingWish(True)),
        ({"reasoning_format": "deepseek", "think": False}, ThinkingWish(False)),
        ({"reasoning_format": "deepseek"}, ThinkingWish("split")),
        ({"reasoning_format": ["none"]}, ThinkingWish()),
        ({"thinking": {"type": []}, "reasoning": {"enabled": {}}}, ThinkingWish()),
    ],
)
def test_wishes_are_read_from_the_first_field_that_says_anything(
    body: dict[str, Any], wish: ThinkingWish
) -> None:
    """Odd values say nothing."""
    assert thinking_wish(body) == wish


def test_other_models_have_no_field_of_thinking(tmp_path: Path, tiny_path: Path) -> None:
    """A model without marks answers as it always did, with leave to think or without."""
    settings = ServerSettings(models={"tiny": tiny_path}, only_given=True, store=tmp_path / "s.db")
    with running_server(settings) as running, running.client() as client:
        message = said(client, CHAT, max_tokens=4, think=True)["choices"][0]["message"]
        assert not {"reasoning", "reasoning_content"} & message.keys()
        assert (
            "thinking"
            not in client.post("/api/show", json={"model": "tiny"}).json()["capabilities"]
        )
        blocks = said(client, MESSAGES, max_tokens=4, **ENABLED)["content"]
        assert [block["type"] for block in blocks] == ["text"]
        events = said(client, MESSAGES, max_tokens=4, stream=True, **ENABLED)
        starts = [event for name, event in events if name == "content_block_start"]
        assert [event["content_block"]["type"] for event in starts] == ["text"]


@pytest.mark.parametrize("model", ["thinker", "unopened"])
def test_log_probabilities_are_those_of_the_answer(client: httpx.Client, model: str) -> None:
    """Nobody learns from them what was thought, told or not, whole or in pieces."""
    for fields in ({}, {"include_reasoning": False}):
        whole = said(client, CHAT, model=model, logprobs=True, **fields)["choices"][0]
        tokens = [found["token"] for found in whole["logprobs"]["content"]]
        assert "".join(tokens).strip() == ANSWER
        events = said(client, CHAT, model=model, logprobs=True, stream=True, **fields)
        choices = [event["choices"][0] for _, event in events if event != "[DONE]"]
        found = [
            each for choice in choices for each in (choice["logprobs"] or {}).get("content", [])
        ]
        assert [each["token"] for each in found] == tokens
    lines = said(client, "/api/chat", model=model, logprobs=True)["logprobs"]
    assert [each["token"] for each in lines] == tokens


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"reasoning": {"max_tokens": 0}}),
        (CHAT, {"thinking_budget_tokens": 0}),
        (CHAT, {"thinking": {"type": "enabled", "budget_tokens": 0}}),
        (CHAT, {"options": {"max_reasoning_tokens": 0}}),
        (RESPONSES, {"thinking_budget_tokens": 0}),
        (CHAT, {"max_reasoning_tokens": 0, "reasoning_effort": "high"}),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 0}}),
        (RESPONSES, {"max_reasoning_tokens": 0}),
    ],
)
def test_thinking_may_have_a_limit(client: httpx.Client, path: str, fields: dict[str, Any]) -> None:
    """In each protocol's words; the answer comes all the same."""
    told = json.dumps(said(client, path, **fields))
    assert f'"{ANSWER}"' in told and THOUGHT not in told
    refused = client.post(CHAT, json={"messages": ASKED, "max_reasoning_tokens": "x"})
    assert refused.status_code == 400 and "whole number" in refused.text


def page_events(client: httpx.Client, **fields: Any) -> list[Any]:
    """What the page hears of a reply."""
    answer = client.post("/page/chat", json={"model": "thinker", "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    return [event for _, event in sse_events(answer.text)]


def test_the_page_hears_of_thinking_and_keeps_it(client: httpx.Client) -> None:
    """It comes as events of its own, stands in the kept reply, and may be switched off."""
    begun, *pieces, end = page_events(client, content="What is 2 + 2?")
    told = {"thinking": "", "text": ""}
    for piece in pieces:
        told[piece["type"]] += piece["text"]
    assert told == {"thinking": THOUGHT, "text": ANSWER}
    assert (end["message"]["content"], end["message"]["details"]["reasoning"]) == (ANSWER, THOUGHT)
    name, parent = begun["conversation"], end["message"]["id"]
    kept = client.get(f"/page/conversations/{name}").json()["messages"][-1]
    assert kept["details"]["reasoning"] == THOUGHT
    follow = {"conversation": name, "parent": parent, "content": "Sure?", "think": False}
    *_, quick = page_events(client, **follow)
    assert quick["message"]["content"] == ANSWER and "reasoning" not in quick["message"]["details"]
    settings = client.get(f"/page/conversations/{name}").json()["settings"]
    assert settings["options"]["reasoning"] is False


def test_the_page_goes_on_inside_thinking(client: httpx.Client) -> None:
    """A reply that a limit has cut in the middle of its thinking is carried on from there."""
    begun, *_, cut = page_events(client, content="What is 2 + 2?", max_tokens=1)
    assert (cut["message"]["content"], cut["message"]["details"]["reasoning"]) == ("", "Easy")
    name, parent = begun["conversation"], cut["message"]["id"]
    *_, end = page_events(client, conversation=name, parent=parent, goes_on=True)
    assert end["message"]["details"]["reasoning"].startswith("Easy")
    assert end["message"]["id"] == parent


def test_thinking_behind_text_keeps_the_places_of_items() -> None:
    """It is in the whole object alone, behind the message; its tokens are not the message's."""
    request = ResponseRequest({"input": "Hi", "stream": True}, Limits(), NO_PRESET)
    stream = ResponseStream(ResponseObject("m", request))
    pieces = [Chunk("Hi", 1), Chunk("", 2, reasoning="hm", is_reasoning=True), Chunk(" there", 3)]
    found = tuple(TokenLogprob(i, str(i), 0.0) for i in (1, 2, 3))
    result = Generation(
        "Hi there", (1, 2, 3), 1, "stop", Statistics(1, 1, 3, 0.0, 0.0, 0.0),
        logprobs=found, reasoning="hm", reasoning_places=(1,),
    )  # fmt: skip
    assert text_logprobs(result) == [found[0], found[2]] and result.usage.reasoning_tokens == 1
    told = b"".join(stream.event(Piece(0, piece)) for piece in pieces)
    told += stream.event(Ended(0, result))
    events = [event for _, event in sse_events(told.decode())]
    assert {event["output_index"] for event in events if "output_index" in event} == {0}
    done = [event["type"] for event in events if event["type"].endswith("item.done")]
    added = [event["type"] for event in events if event["type"].endswith("item.added")]
    assert len(done) == len(added) == 1
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "reasoning"]
