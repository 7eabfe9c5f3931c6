"""What agents and chat programs send, as it was recorded from them, and look for in errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server, sse_events
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.server.settings import ServerSettings

LONG = "word " * 20_000
LOOKED_FOR = {
    "Claude Code": r"(?i)prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)",
    "pi, OpenClaw": r"(?i)maximum context length is \d+ tokens",
    "litellm, aider": r"(?i)this model's maximum context length is",
}
"""By agent the pattern by which it knows that it has to shorten the conversation."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a tiny model that reads 2048 tokens."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_llama(path, TinyLlama(context_length=2048))
    with running_server(ServerSettings(models={"tiny": path}, only_given=True)) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of it."""
    with server.client() as client:
        yield client


@pytest.mark.parametrize("agent", LOOKED_FOR)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/api/chat"])
@pytest.mark.parametrize("times", [1, 50])
def test_agents_know_a_prompt_that_is_too_long(
    client: httpx.Client, path: str, agent: str, times: int
) -> None:
    """In every protocol, counted or told by its length, with the way out."""
    messages = [{"role": "user", "content": LONG * times}]
    answer = client.post(path, json={"model": "tiny", "max_tokens": 8, "messages": messages})
    assert answer.status_code == 400
    error = answer.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert re.search(LOOKED_FOR[agent], message), message
    assert "--context" in message and "--rope-scaling" in message


def claude_code(version: str, text: str, **fields: Any) -> dict[str, Any]:
    """A request of Claude Code 2.1.197, with its system prompt and tools cut short."""
    cached = {"cache_control": {"type": "ephemeral"}}
    account = f"x-anthropic-billing-header: cc_version={version}; cc_entrypoint=sdk-cli;"
    return {
        "model": "tiny",
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "text",
                        "text": "<system-reminder>\n# currentDate\n</system-reminder>",
                    },
                    {"type": "text", "text": text, **cached},
                ],
            },
            {"role": "system", "content": "The following skills are available: review."},
        ],
        "system": [
            {"type": "text", "text": account},
            {"type": "text", "text": "You are an agent that helps with code.", **cached},
            {"type": "text", "text": "Be careful. " * 20, **cached},
        ],
        "metadata": {"user_id": '{"device_id":"a5f1","account_uuid":"","session_id":"4ba0"}'},
        "max_tokens": 6,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        **fields,
    }


def test_claude_codes_conversations_share_their_beginning(client: httpx.Client) -> None:
    """A block for accounts, which differs, does not keep a prompt from being found."""
    path = "/v1/messages?beta=true"
    first = client.post(path, json=claude_code("2.1.197.1c0", "Say hello.")).json()["usage"]
    other = client.post(path, json=claude_code("2.1.197.f61", "Tell me more.")).json()["usage"]
    assert first["cache_read_input_tokens"] == 0
    assert other["cache_read_input_tokens"] >= 128


def test_claude_codes_news_keep_what_was_computed(client: httpx.Client) -> None:
    """What the system says in the middle stands there, before the user's words."""
    news = [
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "user", "content": "Go on."},
        {"role": "system", "content": "Plan mode is active."},
    ]
    asked = claude_code("2.1.197.1c0", "Say hello to everybody.")
    first = client.post("/v1/messages", json=asked).json()["usage"]
    asked["messages"] += news
    later = client.post("/v1/messages", json=asked).json()["usage"]
    known = first["input_tokens"] + first["cache_read_input_tokens"]
    assert later["cache_read_input_tokens"] >= known // 128 * 128


OPEN_WEBUI = {
    "mirostat": 0,
    "mirostat_eta": 0.1,
    "mirostat_tau": 5,
    "num_ctx": 4096,
    "num_batch": 256,
    "num_keep": 24,
    "repeat_last_n": 64,
    "top_k": 30,
    "top_p": 0.9,
    "min_p": 0.05,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "use_mmap": True,
    "use_mlock": False,
    "num_thread": 2,
    "num_gpu": 0,
    "stop": ["x"],
    "seed": 3,
    "temperature": 0.5,
    "tfs_z": 1,
    "reasoning_effort": "low",
}
"""All of Open WebUI 0.12.4's parameters of a model, whose form is the same for all servers."""


def test_open_webuis_parameters_are_taken(client: httpx.Client) -> None:
    """In both of its protocols, those that an Ollama alone would know, too."""
    said = {"model": "tiny", "messages": [{"role": "user", "content": "Name a colour."}]}
    of_ollama = {"options": {**OPEN_WEBUI, "num_predict": 12}, "keep_alive": "5m", "think": False}
    for path, fields in (
        ("/api/chat", {**of_ollama, "format": "json", "stream": False}),
        ("/v1/chat/completions", {**OPEN_WEBUI, "max_tokens": 12, "think": False}),
    ):
        answer = client.post(path, json={**said, **fields})
        assert answer.status_code == 200, answer.text


def test_obsidians_copilot_asks_for_json_among_options(client: httpx.Client) -> None:
    """It is kept to there, too."""
    schema = {"type": "object", "properties": {"x": {"enum": [7]}}, "required": ["x"]}
    schema["additionalProperties"] = False
    said = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    asked = {**said, "options": {"temperature": 0, "num_predict": 60, "format": schema}}
    answer = client.post("/api/chat", json=asked).json()
    assert json.loads(answer["message"]["content"])["x"] == 7


@pytest.mark.parametrize("name", ["reasoning_effort", "think"])
def test_a_leave_to_think_among_options_is_checked(client: httpx.Client, name: str) -> None:
    """As it is beside them."""
    said = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    answer = client.post("/api/chat", json={**said, "options": {name: 7}})
    assert answer.status_code == 400 and f"{name} is 7" in answer.json()["error"]


def test_goose_gives_ollamas_options_in_a_chat(client: httpx.Client) -> None:
    """As its provider for Ollama does, which chats in OpenAI's protocol; each means what it does
    in Ollama's."""
    said = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    path = "/v1/chat/completions"
    plain = client.post(path, json={**said, "max_tokens": 3}).json()
    asked = {**said, "options": {"num_ctx": 4096, "num_predict": 3}}
    assert client.post(path, json=asked).json()["choices"] == plain["choices"]
    assert client.post(path, json={**said, "options": {"odd": 1}}).status_code == 400


def test_editors_are_told_the_context_that_there_is(tmp_path: Path) -> None:
    """Copilot, Continue and others cut a prompt to it; Copilot shows a model's base name, too."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(context_length=256))
    settings = ServerSettings(models={"tiny": path}, only_given=True, engine={"context_length": 96})
    with running_server(settings) as running, running.client() as client:
        shown = client.post("/api/show", json={"model": "tiny:latest"}).json()["model_info"]
        assert shown["llama.context_length"] == 96 and shown["general.basename"] == "tiny"
        (listed,) = client.get("/v1/models").json()["data"]
        assert listed["meta"]["context_length"] == 96
        headers = {"anthropic-version": "2023-06-01"}
        told = client.get("/v1/models/tiny", headers=headers).json()
        assert told["max_input_tokens"] == 96


def test_home_assistants_chat_is_answered(client: httpx.Client) -> None:
    """A call without text, its result without a name, a colour's format, a model that stays."""
    function = {"name": "HassLightSet", "arguments": {"name": "lamp"}}
    colour = {"type": "array", "items": {"type": "number"}, "format": "RGB"}
    properties = {"name": {"type": "string"}, "color": colour}
    parameters = {"type": "object", "properties": properties, "required": []}
    asked = {
        "model": "tiny:latest",
        "messages": [
            {"role": "system", "content": "You help."},
            {"role": "user", "content": "Lamp on"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": function}]},
            {"role": "tool", "content": '{"data":{},"error":null}'},
        ],
        "tools": [
            {"type": "function", "function": {"name": "HassLightSet", "parameters": parameters}}
        ],
        "stream": True,
        "keep_alive": -1,
        "think": False,
        "options": {"num_ctx": 8192, "num_predict": 4},
    }
    for keep_alive in (-1, "-1s", "300s"):
        answer = client.post("/api/chat", json={**asked, "keep_alive": keep_alive})
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.text.splitlines()[-1])["done"]


def test_what_clients_note_at_messages_is_no_content(client: httpx.Client) -> None:
    """Copilot's marks for caches and encrypted thoughts, and what a reply came with; but pictures
    are refused, since a model would not see them."""
    noted = {"copilot_cache_control": {"type": "ephemeral"}, "timestamp": 1, "metadata": {"a": 1}}
    reply = {"role": "assistant", "content": "Hello", "cot_id": "x", "reasoning_opaque": "y"}
    said = [{"role": "user", "content": "Hi", **noted}, {**reply, "usage": {"a": 1}}]
    asked = {
        "model": "tiny",
        "max_tokens": 3,
        "messages": [*said, {"role": "user", "content": "A"}],
    }
    assert client.post("/v1/chat/completions", json=asked).status_code == 200
    asked["messages"] = [{"role": "user", "content": "Hi", "images": ["iVBORw0KGgo="]}]
    answer = client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 400 and "images" in answer.json()["error"]["message"]


def test_a_stream_that_only_calls_has_no_empty_text(client: httpx.Client) -> None:
    """Agents send back every block, and Anthropic's own server refuses empty ones."""
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"enum": [1]}}}}
    asked = {"tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 200, "stream": True}
    said = [{"role": "user", "content": "Hi"}]
    answer = client.post("/v1/messages", json={"model": "tiny", "messages": said, **asked})
    events = [content for _, content in sse_events(answer.text)]
    begun = [each["content_block"]["type"] for each in events if "content_block" in each]
    assert begun and set(begun) == {"tool_use"}
    said = {"messages": said, "max_tokens": 1, "stream": True, "stop_sequences": ["\x00"]}
    answer = client.post("/v1/messages", json={"model": "tiny", **said})
    assert "text" in [
        content["content_block"]["type"]
        for name, content in sse_events(answer.text)
        if name == "content_block_start"
    ]
