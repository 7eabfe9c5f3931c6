"""Every answer and every piece of a stream against the types of the official clients.

The clients themselves take whatever comes; pydantic is strict with their types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from clients.conftest import Served

anthropic = pytest.importorskip("anthropic.types")
chat = pytest.importorskip("openai.types.chat")
openai = pytest.importorskip("openai.types")
responses = pytest.importorskip("openai.types.responses")
ollama = pytest.importorskip("ollama")
pydantic = pytest.importorskip("pydantic")

ASKED = [{"role": "user", "content": "Say hi"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
}
FUNCTION = {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CHATS: tuple[dict[str, Any], ...] = (
    {},
    {"n": 2},
    {"logprobs": True, "top_logprobs": 2},
    {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"prediction": {"type": "content", "content": "Hi"}},
    {"max_completion_tokens": 1},
)
COMPLETIONS: tuple[dict[str, Any], ...] = (
    *({}, {"logprobs": 2}, {"n": 2}, {"prompt": ["a", "b"]}, {"prompt": [1, 2, 3]}),
    {"max_tokens": 0, "echo": True},
)
RESPONSES: tuple[dict[str, Any], ...] = (
    {"max_output_tokens": 300},
    {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
    {"max_output_tokens": 1},
)
MESSAGES: tuple[dict[str, Any], ...] = (
    *({}, {"stop_sequences": ["e"]}, {"system": "Be kind."}),
    {"tools": [{"name": "weather", "input_schema": PARAMETERS}], "tool_choice": {"type": "any"}},
)
OLLAMA_CHATS: tuple[dict[str, Any], ...] = (
    *({}, {"logprobs": True, "top_logprobs": 2}, {"format": "json"}),
    {"tools": [TOOL], "tool_choice": "required"},
)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    """A client without a protocol."""
    headers = {"authorization": f"Bearer {served.key}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=120) as client:
        yield client


def check(kind: Any, value: Any) -> None:
    """The value is of the type."""
    pydantic.TypeAdapter(kind).validate_python(value)


def posted(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    """The answer to a short text."""
    answer = client.post(path, json={"model": "smollm2", **body})
    assert answer.status_code == 200, answer.text
    return answer


def events(answer: httpx.Response) -> list[Any]:
    """What a stream of events says."""
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("fields", CHATS)
def test_chats(client: httpx.Client, fields: dict[str, Any]) -> None:
    """Chats, whole and in chunks, are objects of OpenAI's own types."""
    body = {"messages": ASKED, "max_tokens": 12, **fields}
    check(chat.ChatCompletion, posted(client, "/v1/chat/completions", body).json())
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in events(posted(client, "/v1/chat/completions", body)):
        check(chat.ChatCompletionChunk, chunk)


@pytest.mark.parametrize("fields", COMPLETIONS)
def test_completions(client: httpx.Client, fields: dict[str, Any]) -> None:
    """Whole and in chunks, whose reason of the end is null before it, which the type leaves out."""
    body = {"prompt": "Once upon", "max_tokens": 4, **fields}
    check(openai.Completion, posted(client, "/v1/completions", body).json())
    for chunk in events(posted(client, "/v1/completions", {**body, "stream": True})):
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check(openai.Completion, chunk)


@pytest.mark.parametrize("fields", RESPONSES)
def test_responses(client: httpx.Client, fields: dict[str, Any]) -> None:
    """Responses, whole and as events, are objects of OpenAI's own types."""
    body = {"input": "Say hi", "max_output_tokens": 60, "store": False, **fields}
    check(responses.Response, posted(client, "/v1/responses", body).json())
    for event in events(posted(client, "/v1/responses", {**body, "stream": True})):
        check(responses.ResponseStreamEvent, event)


@pytest.mark.parametrize("fields", MESSAGES)
def test_messages(client: httpx.Client, fields: dict[str, Any]) -> None:
    """Whole and as events, among which pings have no type."""
    body = {"messages": ASKED, "max_tokens": 60, **fields}
    check(anthropic.Message, posted(client, "/v1/messages", body).json())
    for event in events(posted(client, "/v1/messages", {**body, "stream": True})):
        if event["type"] != "ping":
            check(anthropic.RawMessageStreamEvent, event)
    body = {"messages": ASKED}
    check(anthropic.MessageTokensCount, posted(client, "/v1/messages/count_tokens", body).json())


@pytest.mark.parametrize("fields", OLLAMA_CHATS)
def test_chats_of_ollama(client: httpx.Client, fields: dict[str, Any]) -> None:
    """Chats, whole and in lines, are objects of Ollama's own types."""
    body = {"messages": ASKED, "options": {"num_predict": 60}, **fields}
    check(ollama.ChatResponse, posted(client, "/api/chat", {**body, "stream": False}).json())
    for line in posted(client, "/api/chat", body).text.splitlines():
        check(ollama.ChatResponse, json.loads(line))


def test_texts_of_ollama(client: httpx.Client) -> None:
    """Texts, whole and in lines, are objects of Ollama's own types."""
    body = {"prompt": "hi", "options": {"num_predict": 8}, "logprobs": True}
    check(
        ollama.GenerateResponse, posted(client, "/api/generate", {**body, "stream": False}).json()
    )
    for line in posted(client, "/api/generate", body).text.splitlines():
        check(ollama.GenerateResponse, json.loads(line))


def test_lists_and_vectors(client: httpx.Client) -> None:
    """Lists of models in three protocols, and vectors in two, are objects of the official types."""
    version = {"anthropic-version": "2023-06-01"}
    check(openai.Model, client.get("/v1/models/smollm2").json())
    check(anthropic.ModelInfo, client.get("/v1/models/smollm2", headers=version).json())
    check(ollama.ListResponse, client.get("/api/tags").json())
    check(ollama.ProcessResponse, client.get("/api/ps").json())
    check(ollama.ShowResponse, posted(client, "/api/show", {}).json())
    check(openai.CreateEmbeddingResponse, posted(client, "/v1/embeddings", {"input": "a"}).json())
    check(ollama.EmbedResponse, posted(client, "/api/embed", {"input": ["a"]}).json())
    check(ollama.EmbeddingsResponse, posted(client, "/api/embeddings", {"prompt": "a"}).json())
