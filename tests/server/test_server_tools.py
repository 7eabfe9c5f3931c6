"""Tools and log-probabilities over real sockets, in every protocol: a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.llama import Llama
from edgellama.server.settings import ServerSettings

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "Tell the weather.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
CHOICE = {"type": "function", "function": {"name": "weather"}}
ASKED = [{"role": "user", "content": "Rain?"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with room for what says how to call tools."""
    model = TinyLlama(context_length=4096)
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", model)


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of that model alone."""
    store = tmp_path_factory.mktemp("store") / "responses.sqlite"
    settings = ServerSettings(models={"tiny": model_path}, only_given=True, store=store)
    with running_server(settings) as running:
        yield running


def ask(**fields: Any) -> dict[str, Any]:
    """The body of a chat that must call the tool."""
    body = {"messages": ASKED, "tools": [TOOL], "tool_choice": CHOICE, "seed": 1}
    return {**body, "max_tokens": 200, **fields}


def check_arguments(arguments: Any) -> None:
    """They follow the schema."""
    assert list(arguments) == ["city", "days"]
    assert arguments["city"] in ("Rome", "Oslo") and arguments["days"] <= 9


def test_one_of_the_allowed_tools_is_called(client: httpx.Client) -> None:
    """The others are not; a name that no tool has is refused with those that there are."""
    other = {"type": "function", "function": {"name": "other", "parameters": PARAMETERS}}
    choice: dict[str, Any] = {"type": "allowed_tools", "mode": "required", "tools": [CHOICE]}
    for form in (choice, {"type": "allowed_tools", "allowed_tools": choice}):
        asked = ask(tools=[other, TOOL], tool_choice=form, parallel_tool_calls=False)
        message = client.post(CHAT, json=asked).json()["choices"][0]["message"]
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]
    for tools in ([], [{"name": "none"}], "weather", [None]):
        refused = client.post(CHAT, json=ask(tool_choice={**choice, "tools": tools}))
        assert refused.status_code == 400 and "weather" in refused.json()["error"]["message"]


def test_a_call_in_openais_form(client: httpx.Client) -> None:
    """Arguments are JSON text, the reason is tool_calls, the content null."""
    choice = client.post(CHAT, json=ask()).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function" and call["function"]["name"] == "weather" and call["id"]
    check_arguments(json.loads(call["function"]["arguments"]))


@pytest.mark.parametrize("name", ["21st_magic", "files.read", "m" * 128])
def test_names_of_tools_of_other_programs(client: httpx.Client, name: str) -> None:
    """Servers of MCP name them with digits and dots, at length; such a tool is called."""
    tool = {"type": "function", "function": {**FUNCTION, "name": name}}
    choice = client.post(CHAT, json=ask(tools=[tool], tool_choice="required")).json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == name


def test_a_call_in_a_stream(client: httpx.Client) -> None:
    """It comes in pieces while it is written: id and name once, the arguments' text bit by bit."""
    choices, first, *others = streamed_call(client)
    assert first["id"] and first["type"] == "function" and first["function"]["name"] == "weather"
    assert len(others) > 3
    assert all(list(piece) == ["index", "function"] for piece in others)
    assert all(list(piece["function"]) == ["arguments"] for piece in others)
    whole = client.post(CHAT, json=ask()).json()["choices"][0]["message"]["tool_calls"][0]
    text = "".join(piece["function"]["arguments"] for piece in [first, *others])
    assert json.loads(text) == json.loads(whole["function"]["arguments"])
    check_arguments(json.loads(text))
    assert choices[-1]["delta"] == {} and choices[-1]["finish_reason"] == "tool_calls"
    assert not any(choice["delta"].get("content") for choice in choices)


def test_a_call_that_is_cut_in_a_stream(client: httpx.Client) -> None:
    """What was told of it stands, and is not told again as text; the reason is the length."""
    num_tokens = client.post(CHAT, json=ask()).json()["usage"]["completion_tokens"]
    choices, first, *others = streamed_call(client, max_tokens=num_tokens - 16)
    text = "".join(piece["function"]["arguments"] for piece in [first, *others])
    assert text.startswith("{") and not text.endswith("}")
    assert choices[-1]["finish_reason"] == "length"
    assert not any(choice["delta"].get("content") for choice in choices)


def streamed_call(client: httpx.Client, **fields: Any) -> list[Any]:
    """The choices of a stream's chunks, and the pieces of its call."""
    answer = client.post(CHAT, json=ask(stream=True, **fields))
    choices = [content["choices"][0] for _, content in sse_events(answer.text)[:-1]]
    pieces = [piece for choice in choices for piece in choice["delta"].get("tool_calls", [])]
    assert {piece["index"] for piece in pieces} == {0}
    return [choices, *pieces]


def test_a_result_is_answered(client: httpx.Client) -> None:
    """The call and its result go back as messages, and the model answers them."""
    message = client.post(CHAT, json=ask()).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Sun."}
    said = [*ASKED, message, result]
    answer = client.post(CHAT, json=ask(messages=said, tool_choice="none", max_tokens=5)).json()
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")
    before = client.post(CHAT, json=ask(tool_choice="none", max_tokens=5)).json()
    assert answer["usage"]["prompt_tokens"] > before["usage"]["prompt_tokens"]


def test_a_call_in_ollamas_form(client: httpx.Client) -> None:
    """Arguments are an object, and a result has a tool's name."""
    body: dict[str, Any] = {"model": "tiny", "messages": ASKED, "tools": [TOOL]}
    body |= {"options": {"seed": 1, "num_predict": 200}, "tool_choice": CHOICE}
    whole = client.post("/api/chat", json={**body, "stream": False}).json()
    (call,) = whole["message"]["tool_calls"]
    check_arguments(call["function"]["arguments"])
    lines = [json.loads(line) for line in client.post("/api/chat", json=body).text.splitlines()]
    assert [line for line in lines if line["message"].get("tool_calls")]
    assert lines[-1]["done"] is True and not lines[-1]["message"].get("tool_calls")
    result = {"role": "tool", "tool_name": "weather", "content": "Sun."}
    body |= {"messages": [*ASKED, whole["message"], result], "tool_choice": "none"}
    assert client.post("/api/chat", json={**body, "stream": False}).status_code == 200
    assert "tools" in client.post("/api/show", json={"model": "tiny"}).json()["capabilities"]


def test_a_call_in_anthropics_form(client: httpx.Client) -> None:
    """A block of its own, as a stream in pieces, and its result as a block of the user's."""
    tool = {"name": "weather", "description": "Tell it.", "input_schema": PARAMETERS}
    body: dict[str, Any] = {"messages": ASKED, "max_tokens": 200, "tools": [tool], "seed": 1}
    body["tool_choice"] = {"type": "tool", "name": "weather"}
    whole = client.post("/v1/messages", json=body).json()
    assert whole["stop_reason"] == "tool_use"
    (block,) = whole["content"]
    assert block["type"] == "tool_use" and block["name"] == "weather"
    check_arguments(block["input"])
    events = sse_events(client.post("/v1/messages", json={**body, "stream": True}).text)
    parts = [content["delta"] for name, content in events if name == "content_block_delta"]
    pieces = [part["partial_json"] for part in parts if part["type"] == "input_json_delta"]
    assert len(pieces) > 3
    check_arguments(json.loads("".join(pieces)))
    names = [name for name, _ in events if name not in ("ping", "content_block_delta")]
    both = ["content_block_start", "content_block_stop"]
    assert names == ["message_start", *both, "message_delta", "message_stop"]
    assert [content["index"] for name, content in events if name in both] == [0, 0]
    result = {"type": "tool_result", "tool_use_id": block["id"], "content": "Sun."}
    said = [
        *ASKED,
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [result]},
    ]
    again = {**body, "messages": said, "tool_choice": {"type": "none"}, "max_tokens": 5}
    assert client.post("/v1/messages", json=again).status_code == 200


def test_a_call_in_a_response(client: httpx.Client) -> None:
    """An item of its own, whose output a later request brings."""
    tool = {"type": "function", **FUNCTION}
    choice = {"type": "function", "name": "weather"}
    body: dict[str, Any] = {"input": "Rain?", "tools": [tool], "tool_choice": choice, "seed": 1}
    body["max_output_tokens"] = 200
    response = client.post("/v1/responses", json=body).json()
    (item,) = response["output"]
    assert item["type"] == "function_call" and response["status"] == "completed"
    check_arguments(json.loads(item["arguments"]))
    output = {"type": "function_call_output", "call_id": item["call_id"], "output": "Sun."}
    again = {**body, "previous_response_id": response["id"], "input": [output]}
    again |= {"tool_choice": "none", "max_output_tokens": 5}
    assert client.post("/v1/responses", json=again).status_code == 200
    events = sse_events(client.post("/v1/responses", json={**body, "stream": True}).text)
    done = [content for name, content in events if name.endswith("arguments.done")]
    check_arguments(json.loads(done[0]["arguments"]))
    pieces = [content["delta"] for name, content in events if name.endswith("arguments.delta")]
    assert len(pieces) > 3
    assert json.loads("".join(pieces)) == json.loads(done[0]["arguments"])
    ends = [content["item"] for name, content in events if name == "response.output_item.done"]
    assert [item["type"] for item in ends] == ["message", "function_call"]
    assert ends[1]["id"] == done[0]["item_id"] == events[-1][1]["response"]["output"][1]["id"]
    assert [content["sequence_number"] for _, content in events] == list(range(len(events)))
    assert events[-1][1]["response"]["output"][done[0]["output_index"]]["type"] == "function_call"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [TOOL, TOOL]},
        {"tool_choice": "weather!"},
        {"tool_choice": {"type": "function", "function": {"name": "none"}}},
        {"tools": [], "tool_choice": "required"},
        {"messages": [*ASKED, {"role": "assistant", "tool_calls": [{"id": 1}]}]},
        {"functions": [FUNCTION]},
    ],
)
def test_tools_that_cannot_be_obeyed_are_refused(
    client: httpx.Client, fields: dict[str, Any]
) -> None:
    """A 400 says what is allowed."""
    answer = client.post(CHAT, json=ask(**fields))
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


def test_log_probabilities_are_the_librarys(client: httpx.Client, model_path: Path) -> None:
    """Every token has the library's log-probability and alternatives, in streams too."""
    body = {"messages": ASKED, "temperature": 0, "max_tokens": 4}
    body |= {"logprobs": True, "top_logprobs": 2}
    whole = client.post(CHAT, json=body).json()["choices"][0]["logprobs"]["content"]
    with Llama(model_path) as llama, llama.chat(temperature=0, max_tokens=4, logprobs=2) as chat:
        expected = chat.send("Rain?").logprobs
    assert expected is not None
    assert [each["logprob"] for each in whole] == [each.logprob for each in expected]
    assert [len(each["top_logprobs"]) for each in whole] == [2] * len(whole)
    streamed = [
        each
        for _, content in sse_events(client.post(CHAT, json={**body, "stream": True}).text)[:-1]
        for each in (content["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == whole
    ollama = {"messages": ASKED, "stream": False, "logprobs": True, "top_logprobs": 2}
    ollama["options"] = {"temperature": 0, "num_predict": 4}
    assert client.post("/api/chat", json=ollama).json()["logprobs"] == whole


def test_log_probabilities_of_responses(client: httpx.Client) -> None:
    """Where they are to be included: those of the same chat, whole and in a stream."""
    chat = {"messages": ASKED, "temperature": 0, "max_tokens": 4}
    chat |= {"logprobs": True, "top_logprobs": 2}
    expected = client.post(CHAT, json=chat).json()["choices"][0]["logprobs"]["content"]
    body = {"input": "Rain?", "temperature": 0, "max_output_tokens": 4, "top_logprobs": 2}
    body["include"] = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    whole = client.post("/v1/responses", json=body).json()
    assert whole["output"][0]["content"][0]["logprobs"] == expected
    events = sse_events(client.post("/v1/responses", json={**body, "stream": True}).text)
    deltas = [content for name, content in events if name == "response.output_text.delta"]
    assert [each for delta in deltas for each in delta["logprobs"]] == expected
    done = dict(events)["response.output_text.done"]
    assert done["logprobs"] == expected
    del body["include"]
    assert client.post("/v1/responses", json=body).status_code == 400
    body["include"] = ["everything"]
    assert "allowed: message.output_text" in client.post("/v1/responses", json=body).text


def test_log_probabilities_of_prompts(client: httpx.Client) -> None:
    """With echo and no further token a prompt is scored, as benchmarks ask for it."""
    body = {"prompt": "Hello there", "max_tokens": 0, "echo": True, "logprobs": 1}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    found = choice["logprobs"]
    assert choice["text"] == "Hello there"
    assert found["token_logprobs"][0] is None
    assert all(value < 0 for value in found["token_logprobs"][1:])
    assert len({len(found[name]) for name in found}) == 1
    assert found["text_offset"] == sorted(found["text_offset"])


def test_log_probabilities_of_completions_in_a_stream(client: httpx.Client) -> None:
    """They are those of the whole answer: where each begins, and with echo the prompt's, too."""
    body: dict[str, Any] = {"prompt": "Hello there", "max_tokens": 6, "logprobs": 1, "seed": 1}
    for fields in (body, {**body, "echo": True}):
        whole = client.post("/v1/completions", json=fields).json()["choices"][0]
        answer = client.post("/v1/completions", json={**fields, "stream": True})
        choices = [chunk["choices"][0] for _, chunk in sse_events(answer.text)[:-1]]
        assert "".join(choice["text"] for choice in choices) == whole["text"]
        told = [choice["logprobs"] for choice in choices if choice["logprobs"]]
        for name, values in whole["logprobs"].items():
            assert [value for found in told for value in found[name]] == values


@pytest.mark.parametrize("fields", [{"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}])
def test_impossible_alternatives_are_refused(client: httpx.Client, fields: dict[str, Any]) -> None:
    """More than there may be, and some without the token's own."""
    assert client.post(CHAT, json={"messages": ASKED, **fields}).status_code == 400


def test_an_agents_offers_are_left_alone(client: httpx.Client) -> None:
    """What Codex sends to every model is taken, and its functions are the only tools."""
    function = {"type": "function", "name": "run", "strict": False, "parameters": {}}
    others = [
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
        {"type": "namespace", "name": "agents", "tools": [function]},
    ]
    sent = {
        "client_metadata": {"x": "y"},
        "reasoning": {"summary": "auto"},
        "prompt_cache_key": "k",
    }
    sent |= {"include": ["reasoning.encrypted_content"], "store": False, "tool_choice": "auto"}
    sent |= {"input": "Hello", "max_output_tokens": 3}
    answers = [
        client.post("/v1/responses", json={**sent, "tools": tools})
        for tools in ([function, *others], [function], others, None)
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    counts = [answer.json()["usage"]["input_tokens"] for answer in answers]
    assert counts[0] == counts[1] > counts[2] == counts[3]
