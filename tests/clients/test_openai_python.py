"""openai-python, with its own retries, stream helpers and error classes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from clients.conftest import Served

openai = pytest.importorskip("openai")
ASKED: Any = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    """A client that does not try again."""
    with openai.OpenAI(base_url=served.openai_url, api_key=served.key, max_retries=0) as client:
        yield client


def test_models(client: Any) -> None:
    """The list and one of it."""
    assert "smollm2" in [model.id for model in client.models.list()]
    assert client.models.retrieve("smollm2").id == "smollm2"


def test_chat(client: Any) -> None:
    """Whole, in pieces, and by the helper that puts pieces together give the same text."""
    asked: Any = [{"role": "user", "content": "Say hello."}]
    options: Any = {"model": "smollm2", "messages": asked, "temperature": 0, "max_tokens": 50}
    whole = client.chat.completions.create(**options)
    text = whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant" and whole.usage.completion_tokens <= 50
    pieces = client.chat.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == text
    with client.chat.completions.stream(
        **options, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.usage.total_tokens == whole.usage.total_tokens


def test_completions(client: Any) -> None:
    """Plain prompts are completed, with echo and as a stream."""
    options: Any = {"model": "smollm2", "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(prompt="Once upon a time", **options).choices[0].text
    pieces = client.completions.create(prompt="Once upon a time", stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in pieces) == whole
    echoed = client.completions.create(prompt="Once upon a time", echo=True, **options)
    assert echoed.choices[0].text == "Once upon a time" + whole


def test_embeddings(client: Any) -> None:
    """The client asks for base64 and decodes it; numbers are the same."""
    options: Any = {"model": "smollm2", "input": ["A cat.", "A dog."]}
    coded = client.embeddings.create(**options)
    plain = client.embeddings.create(**options, encoding_format="float")
    assert len(coded.data[0].embedding) == 576
    assert coded.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-7)


def test_responses(client: Any) -> None:
    """A response, one that goes on from it, and a stream."""
    options: Any = {"model": "smollm2", "temperature": 0, "max_output_tokens": 60}
    first = client.responses.create(input="Say hello.", **options)
    second = client.responses.create(input="And again.", previous_response_id=first.id, **options)
    assert first.output_text and second.output_text
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    with client.responses.stream(input="Say hello.", **options) as stream:
        types = [event.type for event in stream]
        assert stream.get_final_response().output_text == first.output_text
    assert types[0] == "response.created" and types[-1] in (
        "response.completed",
        "response.incomplete",
    )
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)


def test_errors(client: Any, served: Served) -> None:
    """Each status is the client's own class, with the field that is wrong."""
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="none", messages=ASKED)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm2", messages=ASKED, temperature=-1)
    assert caught.value.code == "invalid_value"
    with pytest.raises(openai.BadRequestError, match="context"):
        long: Any = [{"role": "user", "content": "word " * 5000}]
        client.chat.completions.create(model="smollm2", messages=long, stream=True)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=served.openai_url, api_key="wrong").models.list()


def test_a_cancelled_task_ends_its_text(served: Served) -> None:
    """Another task goes on meanwhile, and the server is free again afterwards."""

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=served.openai_url, api_key=served.key) as client:
            options: Any = {"model": "smollm2", "messages": ASKED, "temperature": 0}

            async def endless() -> None:
                stream = await client.chat.completions.create(
                    **options, stream=True, extra_body={"ignore_eos": True}
                )
                async for _ in stream:
                    pass

            gone = asyncio.create_task(endless())
            beside = client.chat.completions.create(**options, max_tokens=20)
            await asyncio.sleep(0.3)
            gone.cancel()
            assert (await beside).choices[0].message.content
            with pytest.raises(asyncio.CancelledError):
                await gone

    asyncio.run(main())
    import httpx

    for _ in range(100):
        if httpx.get(f"{served.url}/health").json()["running"] == 0:
            break
    assert httpx.get(f"{served.url}/health").json()["running"] == 0


def test_structured_answers_and_tools(client: Any) -> None:
    """The client's own helper parses a pydantic class; a call goes there and back."""
    import pydantic

    class Person(pydantic.BaseModel):
        name: str
        age: int

    asked: Any = [{"role": "user", "content": "Ada is 36 years old. Who is it?"}]
    options: Any = {"model": "smollm2", "messages": asked, "max_tokens": 100, "temperature": 0}
    parsed = client.chat.completions.parse(**options, response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)
    tool: Any = openai.pydantic_function_tool(Person)
    called = client.chat.completions.create(**options, tools=[tool], tool_choice="required")
    (call,) = called.choices[0].message.tool_calls[:1]
    assert Person.model_validate_json(call.function.arguments)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Found."}
    said = [*asked, called.choices[0].message, result]
    again = client.chat.completions.create(
        model="smollm2", messages=said, tools=[tool], tool_choice="none", max_tokens=10
    )
    assert again.choices[0].message.content
    with client.chat.completions.stream(
        **options, tools=[tool], tool_choice="required", stream_options={"include_usage": True}
    ) as stream:
        pieces = [each for each in stream if each.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion()
    assert len(pieces) > 1
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments


def test_a_call_in_a_responses_stream(client: Any) -> None:
    """The client's helper joins the pieces and reads the arguments."""
    schema: Any = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}}
    schema |= {"required": ["city"], "additionalProperties": False}
    tool: Any = {"type": "function", "name": "weather", "parameters": schema, "strict": True}
    options: Any = {"model": "smollm2", "input": "Weather in Rome?", "max_output_tokens": 200}
    options |= {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    with client.responses.stream(**options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.delta") > 1
    assert final.output[-1].parsed_arguments["city"] in ("Rome", "Oslo")


def test_log_probabilities(client: Any) -> None:
    """Tokens come with their log-probabilities and alternatives."""
    answer = client.chat.completions.create(
        model="smollm2", messages=ASKED, max_tokens=3, logprobs=True, top_logprobs=2
    )
    found = answer.choices[0].logprobs.content
    assert len(found) == 3 and all(len(each.top_logprobs) == 2 for each in found)
    response = client.responses.create(
        model="smollm2", input="Name a colour.", max_output_tokens=3, top_logprobs=2,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    found = response.output[0].content[0].logprobs
    assert len(found) == 3 and all(len(each.top_logprobs) == 2 for each in found)
