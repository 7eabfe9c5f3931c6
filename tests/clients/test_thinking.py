"""What a model thinks, in the official clients: python -m pytest -m clients tests/clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness.servers import RunningServer, running_server
from reference.thinking_model import ANSWER, THOUGHT, write_thinking_model

from edgellama.server.settings import ServerSettings

ASKED: Any = [{"role": "user", "content": "What is 2 + 2?"}]
ENABLED: Any = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a model that thinks."""
    folder = tmp_path_factory.mktemp("models")
    models = {"thinker": write_thinking_model(folder / "thinker.gguf")}
    with running_server(
        ServerSettings(models=models, only_given=True, store=folder / "responses.sqlite")
    ) as running:
        yield running


def test_openai_python(thinker: RunningServer) -> None:
    """Chats have it beside the content, responses as an item, and both may come back."""
    client = pytest.importorskip("openai").OpenAI(base_url=f"{thinker.url}/v1", api_key="x")
    with client.chat.completions.stream(model="thinker", messages=ASKED) as stream:
        message = stream.get_final_completion().choices[0].message
    assert (message.content, message.reasoning_content) == (ANSWER, THOUGHT)
    with client.responses.stream(model="thinker", input="What is 2 + 2?") as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert "response.reasoning_text.delta" in kinds
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text == THOUGHT
    items = [*ASKED, *(item.model_dump() for item in response.output), *ASKED]
    assert client.responses.create(model="thinker", input=items).output_text == ANSWER


def test_anthropic_python(thinker: RunningServer) -> None:
    """Blocks of thinking are put together from a stream, signed, and may come back."""
    client = pytest.importorskip("anthropic").Anthropic(base_url=thinker.url, api_key="x")
    asked = {"model": "thinker", "max_tokens": 2000, "messages": ASKED}
    with client.messages.stream(**asked, thinking=ENABLED) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_message()
    assert {"thinking", "signature", "text"} <= kinds
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == THOUGHT and message.content[0].signature
    reply = {"role": "assistant", "content": message.content}
    again = client.messages.create(
        **{**asked, "messages": [*ASKED, reply, *ASKED]}, thinking=ENABLED
    )
    assert again.content[1].text == ANSWER
    assert [block.type for block in client.messages.create(**asked).content] == ["text"]


def test_ollama_python(thinker: RunningServer) -> None:
    """Messages and texts have a field of thinking, which think switches."""
    client = pytest.importorskip("ollama").Client(host=thinker.url)
    message = client.chat("thinker", ASKED, think=True).message
    assert (message.content, message.thinking) == (ANSWER, THOUGHT)
    assert client.chat("thinker", ASKED, think=False).message.thinking is None
    assert client.generate("thinker", "What is 2 + 2?", think=True).thinking == THOUGHT
    assert "thinking" in client.show("thinker").capabilities
