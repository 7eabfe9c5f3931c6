"""Functions that a reply calls: run with what their hints ask for, until there is an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from reference.tool_chats import (
    SAID,
    TOKENIZER,
    Person,
    add,
    brave_search,
    chat_with,
    paint,
)

from edgellama.quant.errors import InvalidOptionError
from edgellama.tools.running import call_function
from edgellama.tools.tool import Tool, ToolCall

pytest.importorskip("llguidance")


def test_a_function_of_a_built_in_name_runs_it() -> None:
    """run calls it, and its call is shown in the built-in form again."""
    variables = {"builtin_tools": ["brave_search"]}
    options: Any = {"template": "llama-3.1", "template_variables": variables}
    said = '<|python_tag|>brave_search.call(query="glue")<|eom_id|>'
    chat, engine = chat_with(said, "No.", tools=[brave_search], **options)
    assert chat.run("Go.").text == "No."
    assert chat.messages[2]["content"] == "nothing about glue"
    steps = [TOKENIZER.decode(step, skip_special=False) for step in engine.forwarded]
    behind = "<|eom_id|><|start_header_id|>ipython<|end_header_id|>"
    assert any(step.startswith(f'"){behind}') for step in steps)
    chat, _ = chat_with(said, "No.", tools=[add], **options)
    chat.run("Go.")
    assert chat.messages[2]["content"] == "Error: LookupError: no function runs brave_search"


def test_results_go_on_from_the_call() -> None:
    """What was computed of a call is not computed again behind its result."""
    chat, engine = chat_with(SAID["json"][1], "It is 1.", tools=[add])
    call = chat.send("Go.").tool_calls[0]
    first = len(engine.forwarded)
    chat.messages.append({"role": "tool", "tool_call_id": call.id, "content": "1"})
    reply = chat.regenerate().wait()
    assert reply.text == "It is 1."
    shown = TOKENIZER.decode(engine.forwarded[first], skip_special=False)
    assert shown.startswith('<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n"1"')


def test_run_calls_functions_until_there_is_an_answer() -> None:
    """Each round adds a call and its result; the last reply answers."""
    heard: list[tuple[str, str]] = []
    chat, _ = chat_with(
        '{"name": "add", "parameters": {"a": 1, "b": 2}}',
        '{"name": "paint", "parameters": {"colour": "blue", "coats": [1, 2]}}',
        "Done.",
        tools=[add, paint],
    )
    result = chat.run("Go.", on_call=lambda call, content: heard.append((call.name, content)))
    assert (result.text, result.finish_reason) == ("Done.", "stop")
    assert heard == [("add", "3"), ("paint", "blue, 2 coats")]
    roles = [message["role"] for message in chat.messages]
    assert roles == ["user", *["assistant", "tool"] * 2, "assistant"]
    assert chat.messages[2]["name"] == "add"


def test_run_stops_at_its_limit() -> None:
    """A model that never answers is asked once more than there are rounds."""
    said = '{"name": "add", "parameters": {"a": 1}}'
    chat, _ = chat_with(*[said] * 4, tools=[add])
    result = chat.run("Go.", max_rounds=2)
    assert result.finish_reason == "tool_calls"
    assert [message["role"] for message in chat.messages].count("tool") == 2


def broken(a: int) -> int:
    """Fail."""
    raise ValueError(f"no {a}")


def test_errors_are_results() -> None:
    """What a function raises is handed to the model."""
    chat, _ = chat_with('{"name": "broken", "parameters": {"a": 7}}', "Sorry.", tools=[broken])
    assert chat.run("Go.").text == "Sorry."
    assert chat.messages[2]["content"] == "Error: ValueError: no 7"


def meet(people: list[Person]) -> dict[str, object]:
    """Meet people."""
    return {"oldest": max(people, key=lambda person: person.age)}


def test_functions_get_what_their_hints_ask_for() -> None:
    """Objects of classes are made of arguments, and results are written as JSON."""
    pytest.importorskip("msgspec")
    said = '{"name": "meet", "parameters": {"people": [{"name": "Ada", "age": 36}]}}'
    chat, _ = chat_with(said, "Hello.", tools=[meet])
    chat.run("Go.")
    assert json.loads(chat.messages[2]["content"]) == {"oldest": {"name": "Ada", "age": 36}}


def visit(
    towns: dict[str, Person], first: tuple[Person, int], numbers: dict[int, str], who: Person | int
) -> object:
    """Visit."""
    return [type(towns["Rome"]), type(first[0]), first[1], numbers, type(who)]


def test_objects_are_made_inside_mappings_tuples_and_unions() -> None:
    """A class is a class wherever a hint has it, and keys are what hints say."""
    pytest.importorskip("pydantic")
    ada = {"name": "Ada", "age": 36}
    arguments = {"towns": {"Rome": ada}, "first": [ada, 1], "numbers": {"1": "one"}, "who": ada}
    result = call_function({"visit": Tool.of(visit)}, ToolCall("visit", arguments))
    assert result == [Person, Person, 1, {1: "one"}, Person]


class Later:
    """An object whose call is asynchronous."""

    async def __call__(self, a: int) -> int:
        """Wait."""
        return a


async def later(a: int) -> int:
    """Wait."""
    await asyncio.sleep(0)
    return a


def test_asynchronous_functions_are_awaited() -> None:
    """run_async awaits them, run refuses them before anything is asked."""
    said = '{"name": "later", "parameters": {"a": 7}}'
    chat, _ = chat_with(said, "Done.", tools=[later])
    assert asyncio.run(chat.run_async("Go.")).text == "Done."
    assert chat.messages[2]["content"] == "7"
    chat, engine = chat_with(said, tools=[later])
    with pytest.raises(InvalidOptionError, match="later is asynchronous"):
        chat.run("Go.")
    with pytest.raises(InvalidOptionError, match="Later is asynchronous"):
        chat.run("Go.", tools=[Later()])
    assert engine.forwarded == []


def test_run_needs_functions() -> None:
    """Tools without functions are for callers who run them."""
    for options in ({}, {"tools": [Tool("f")]}, {"tools": [add], "max_rounds": 0}):
        chat, engine = chat_with("")
        with pytest.raises(InvalidOptionError, match="allowed"):
            chat.run("Go.", **options)
        assert engine.forwarded == []
