"""Frameworks for agents in Python, over the protocols that each of them speaks."""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
import pytest

from clients.conftest import Served
from edgellama import Llama

pydantic = pytest.importorskip("pydantic")
LIMITS: Any = {"temperature": 0, "max_tokens": 60}


class Colour(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    """What is asked for."""

    colour: Literal["red", "blue"]


@pytest.mark.parametrize("protocol", ["chat", "responses", "anthropic"])
def test_pydantic_ai(served: Served, protocol: str) -> None:
    """A class through a tool, and texts with leave to think, which changes nothing."""
    pydantic_ai = pytest.importorskip("pydantic_ai")
    if protocol == "anthropic":
        models = pytest.importorskip("pydantic_ai.models.anthropic")
        providers = pytest.importorskip("pydantic_ai.providers.anthropic")
        kind, provider = models.AnthropicModel, providers.AnthropicProvider
        base = served.url
    else:
        models = pytest.importorskip("pydantic_ai.models.openai")
        provider = pytest.importorskip("pydantic_ai.providers.openai").OpenAIProvider
        is_chat = protocol == "chat"
        kind = models.OpenAIChatModel if is_chat else models.OpenAIResponsesModel
        base = served.openai_url
    model = kind("smollm2", provider=provider(base_url=base, api_key=served.key))
    agent = pydantic_ai.Agent(model, output_type=Colour, model_settings=LIMITS)
    assert agent.run_sync("Name a colour.").output.colour in ("red", "blue")
    thinking = {**LIMITS, "openai_reasoning_effort": "low"}
    texts = [
        pydantic_ai.Agent(model, model_settings=settings).run_sync("Name a colour.").output
        for settings in (LIMITS, thinking)
    ]
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "RESPONSES_TOOLS"])
def test_instructor(served: Served, mode: str) -> None:
    """instructor fills classes by tools, by a schema and by responses."""
    instructor, openai = pytest.importorskip("instructor"), pytest.importorskip("openai")
    client = openai.OpenAI(base_url=served.openai_url, api_key=served.key)
    asking = instructor.from_openai(client, mode=getattr(instructor.Mode, mode))
    asked = [{"role": "user", "content": "Name a colour."}]
    found = asking.chat.completions.create(
        model="smollm2", response_model=Colour, messages=asked, **LIMITS
    )
    assert found.colour in ("red", "blue")


def test_outlines(served: Served) -> None:
    """A class by its schema; and its guide as a function that changes logits, in this process."""
    outlines, openai = pytest.importorskip("outlines"), pytest.importorskip("openai")
    core = pytest.importorskip("outlines_core")
    client = openai.OpenAI(base_url=served.openai_url, api_key=served.key)
    found = outlines.from_openai(client, "smollm2")("Name a colour.", Colour, **LIMITS)
    assert Colour.model_validate_json(found).colour in ("red", "blue")
    with Llama("smollm2", context_length=64) as llama:
        tokenizer, end = llama.tokenizer, llama.tokenizer.special.eos_id
        texts = {i: tokenizer.decode([i], skip_special=False) for i in range(tokenizer.vocab_size)}
        known = {text: [i] for i, text in texts.items() if i != end and "\ufffd" not in text}
        guide = core.Guide(core.Index("[0-9]{3}-[0-9]{2}", core.Vocabulary(end, known)))
        lengths: list[int] = []

        def guided(logits: Any, tokens: Any) -> None:
            if lengths and len(tokens) > lengths[-1]:
                guide.advance(tokens[-1])
            lengths.append(len(tokens))
            allowed = logits[guide.get_tokens()]
            logits[:] = -np.inf
            logits[guide.get_tokens()] = allowed

        text = llama.generate("A number: ", processors=[guided], max_tokens=12).text
    assert re.fullmatch("[0-9]{3}-[0-9]{2}", text)


def test_openai_agents(served: Served) -> None:
    """A tool that must be called, and settings as for a model that thinks."""
    agents = pytest.importorskip("agents")
    shared = pytest.importorskip("openai.types.shared")
    agents.set_tracing_disabled(True)
    client = agents.AsyncOpenAI(base_url=served.openai_url, api_key=served.key)
    told: list[str] = []

    def weather(city: str) -> str:
        """The weather of a city."""
        told.append(city)
        return "sunny"

    for kind in (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel):
        settings = agents.ModelSettings(temperature=0, max_tokens=300, tool_choice="required")
        thinking = shared.Reasoning(effort="low")
        agent = agents.Agent(
            "a",
            model=kind("smollm2", client),
            tools=[agents.function_tool(weather)],
            tool_use_behavior="stop_on_first_tool",
            model_settings=settings.resolve(
                agents.ModelSettings(reasoning=thinking, verbosity="low", truncation="auto")
            ),
        )
        assert agents.Runner.run_sync(agent, "How is the weather in Oslo?").final_output == "sunny"
    assert len(told) >= 2


def test_smolagents(served: Served) -> None:
    """smolagents gets a reply to a message of parts."""
    smolagents = pytest.importorskip("smolagents")
    model = smolagents.OpenAIServerModel(
        "smollm2", api_base=served.openai_url, api_key=served.key, **LIMITS
    )
    asked = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
    assert model(asked).content


def test_haystack(served: Served) -> None:
    """Whole and in pieces give the same text; a call that is asked for is one."""
    chats = pytest.importorskip("haystack.components.generators.chat")
    classes = pytest.importorskip("haystack.dataclasses")
    tools = pytest.importorskip("haystack.tools")
    secret = pytest.importorskip("haystack.utils").Secret
    generator = chats.OpenAIChatGenerator(
        api_key=secret.from_token(served.key),
        model="smollm2",
        api_base_url=served.openai_url,
        generation_kwargs=LIMITS,
    )
    asked = [classes.ChatMessage.from_user("Say hello.")]
    whole = generator.run(asked)["replies"][0].text
    assert generator.run(asked, streaming_callback=print)["replies"][0].text == whole != ""
    parameters = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}}
    weather = tools.Tool("weather", "The weather.", parameters, lambda city: "sunny")
    forced = {"tool_choice": "required"}
    reply = generator.run(asked, tools=[weather], generation_kwargs=forced)["replies"][0]
    assert reply.tool_calls[0].tool_name == "weather"


@pytest.mark.parametrize("protocol", ["openai", "ollama_chat"])
def test_dspy(served: Served, protocol: str) -> None:
    """A signature is filled in."""
    dspy = pytest.importorskip("dspy")
    base = served.openai_url if protocol == "openai" else served.url
    model = dspy.LM(
        f"{protocol}/smollm2",
        api_base=base,
        api_key=served.key,
        temperature=0.0,
        max_tokens=300,
        cache=False,
    )
    with dspy.context(lm=model, adapter=dspy.JSONAdapter()):
        assert dspy.Predict("question -> answer: str")(question="Say hello.").answer
