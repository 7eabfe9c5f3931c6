"""anthropic's Python client."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from clients.conftest import Served

anthropic = pytest.importorskip("anthropic")
ASKED: Any = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    """A client with the key."""
    return anthropic.Anthropic(base_url=served.url, api_key=served.key, max_retries=0)


def test_messages(client: Any) -> None:
    """A message comes whole, by the stream helper, and as raw events."""
    options: Any = {"model": "smollm2", "messages": ASKED, "max_tokens": 12}
    options["extra_body"] = {"temperature": 0}
    whole = client.messages.create(**options, system="Answer in one word.")
    assert whole.content[0].text and whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**options, system="Answer in one word.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    events = [event.type for event in client.messages.create(**options, stream=True)]
    assert events[0] == "message_start" and events[-1] == "message_stop"


def test_models(client: Any) -> None:
    """Listed and by name."""
    names = [model.id for model in client.models.list()]
    assert "smollm2" in names and client.models.retrieve("smollm2").display_name


def test_count_tokens(client: Any) -> None:
    """As many as the message then has."""
    counted = client.messages.count_tokens(model="smollm2", messages=ASKED)
    usage = client.messages.create(model="smollm2", messages=ASKED, max_tokens=1).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_errors(client: Any, served: Served) -> None:
    """Each status is the client's own class."""
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="none", messages=ASKED, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="smollm2", messages=[], max_tokens=1)
    with pytest.raises(anthropic.AuthenticationError):
        wrong = anthropic.Anthropic(base_url=served.url, api_key="wrong")
        wrong.messages.create(model="smollm2", messages=ASKED, max_tokens=1)


def test_tools(client: Any) -> None:
    """A call as a block, in a stream too, and its result."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}}
    schema["required"] = ["city"]
    options: Any = {"model": "smollm2", "messages": ASKED, "max_tokens": 100}
    options["tools"] = [{"name": "weather", "description": "Tell it.", "input_schema": schema}]
    options["tool_choice"] = {"type": "tool", "name": "weather"}
    whole = client.messages.create(**options)
    assert whole.stop_reason == "tool_use"
    block = next(block for block in whole.content if block.type == "tool_use")
    assert block.input["city"] in ("Rome", "Oslo")
    with client.messages.stream(**options) as stream:
        pieces = [event for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert next(b for b in final.content if b.type == "tool_use").input["city"] in ("Rome", "Oslo")
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "Sun."}
    said = [*ASKED, {"role": "assistant", "content": whole.content}]
    said.append({"role": "user", "content": [result]})
    options |= {"messages": said, "tool_choice": {"type": "none"}, "max_tokens": 10}
    assert client.messages.create(**options).content


def test_tool_runner(client: Any) -> None:
    """The runner asks for a thread, is refused, and runs the function over whole messages."""
    called: list[str] = []

    @anthropic.beta_tool
    def weather(city: Literal["Rome", "Oslo"]) -> str:
        """Tell the weather.

        Args:
            city: Where it is.
        """
        called.append(city)
        return "Sun."

    runner = client.beta.messages.tool_runner(
        model="smollm2",
        messages=ASKED,
        max_tokens=60,
        tools=[weather],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_iterations=2,
        extra_body={"temperature": 0},
    )
    assert [message.role for message in runner] == ["assistant"] * 2 and called
