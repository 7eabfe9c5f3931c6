"""Replies that call tools: well formed whatever a model likes best, hidden in streams, run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from conftest import CliRunner
from reference.family import MEMBERS
from reference.replying_engine import ReplyingEngine

from edgellama.convert import convert
from edgellama.generation.chat_format import ChatFormat
from edgellama.generation.conversation import Conversation
from edgellama.generation.messages import checked_messages
from edgellama.generation.session import Session
from edgellama.llama import Llama
from edgellama.quant.errors import ConstraintError, EdgellamaError, InvalidOptionError
from edgellama.text.chat_template import load_chat_template
from edgellama.text.tokenizer import Tokenizer, load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols
from edgellama.tools.tool import Tool, ToolCall

pytest.importorskip("llguidance")

TEMPLATES = {
    path.stem: path.read_text("utf-8")
    for path in (Path(__file__).parent / "data" / "tool_templates").glob("*.jinja")
}
TEMPLATES["chatml"] = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3.2 is asked for lists of calls in Python's words.
TEMPLATES["python"] = (
    "{{ bos_token }}{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.tool_calls %}"
    "{{ '[' }}{% for call in m.tool_calls %}{{ call.function.name + '(' }}"
    "{% for name, value in call.function.arguments | items %}{{ name + '=' + value | tojson }}"
    "{{ '' if loop.last else ', ' }}{% endfor %}{{ ')' if loop.last else '), ' }}{% endfor %}"
    "{{ ']' }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENINGS = {
    "llama-3.1": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama-3.2": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "hermes-2-pro": "<|im_start|>assistant\n",
    "chatml": "<|im_start|>assistant\n",
    "python": "<|im_start|>assistant\n",
    "mistral-nemo": "[/INST]",
}
CONTROL = (
    *("<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|im_start|>", "<|im_end|>", "<|python_tag|>", "[TOOL_CALLS]", "[/INST]"),
)
TAGS = ("<tool_call>", "</tool_call>")


def tokenizer_with(*tags: str, kind: int = 3) -> Tokenizer:
    """A token a byte, and control tokens of every format; ``tags`` have the type ``kind``."""
    special = (*CONTROL, *tags)
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [*(s.decode() for s in byte_symbols()), *special],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(CONTROL) + [kind] * len(tags),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.bos_token_id": 256,
            "tokenizer.ggml.eos_token_id": 257,
        }
    )


TOKENIZER = tokenizer_with()


def chat_with(
    *replies: str | Callable[[int], Any],
    template: str = "llama-3.2",
    tokenizer: Tokenizer = TOKENIZER,
    **options: Any,
) -> tuple[Conversation, ReplyingEngine]:
    """A conversation whose model says these replies, as far as it may."""

    def encoded(text: str) -> list[int]:
        return tokenizer.encode(text, add_bos=False, parse_special=True)

    rows = [encoded(r + "</s>") if isinstance(r, str) else r for r in replies]
    engine = ReplyingEngine(rows, encoded(OPENINGS[template]), tokenizer.vocab_size)
    chosen = load_chat_template({"tokenizer.chat_template": TEMPLATES[template]}, tokenizer)
    assert chosen is not None
    session = Session(engine, tokenizer)  # type: ignore[arg-type]
    return Conversation(session, tokenizer, chosen, **{"temperature": 0, **options}), engine


def add(a: int, b: int = 0) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def paint(colour: Literal["red", "blue"], coats: list[int]) -> str:
    """Paint something."""
    return f"{colour}, {len(coats)} coats"


def nothing() -> None:
    """Do nothing."""


def calls_of(result: Any) -> list[tuple[str, Any]]:
    """Names and arguments."""
    return [(call.name, call.arguments) for call in result.tool_calls]


SAID: dict[str, tuple[str, str, list[tuple[str, Any]]]] = {
    "json": ("llama-3.2", '{"name": "add", "parameters": {"a": 1}}', [("add", {"a": 1})]),
    "tag": (
        "llama-3.1",
        '<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": 2}}<|eom_id|>',
        [("add", {"a": 1, "b": 2})],
    ),
    "two": (
        "llama-3.2",
        '{"name": "add", "parameters": {"a": 1}}; {"name": "paint", "parameters": '
        '{"colour": "red", "coats": []}}',
        [("add", {"a": 1}), ("paint", {"colour": "red", "coats": []})],
    ),
    "hermes": (
        "hermes-2-pro",
        'So: <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n'
        '{"name": "add", "arguments": {"a": 2}}\n</tool_call>',
        [("add", {"a": 1}), ("add", {"a": 2})],
    ),
    "generic": (
        "chatml",
        '<tool_call>\n{"name": "add", "arguments": {"a": -1}}\n</tool_call>',
        [("add", {"a": -1})],
    ),
    "mistral": (
        "mistral-nemo",
        '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": '
        '{"a": 2}}]',
        [("add", {"a": 1}), ("add", {"a": 2})],
    ),
}
SAID["python"] = (
    "python",
    '[add(a=1), paint(colour="red", coats=[2])]',
    [("add", {"a": 1}), ("paint", {"colour": "red", "coats": [2]})],
)
KINDS = {
    "as text": TOKENIZER,
    "as control tokens": tokenizer_with(*TAGS),
    "as added tokens": tokenizer_with(*TAGS, kind=4),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAID)
def test_calls_of_every_form_are_results(name: str, kind: str) -> None:
    """What a model says in its form becomes calls, and is no text."""
    template, said, expected = SAID[name]
    chat, _ = chat_with(said, template=template, tokenizer=KINDS[kind], tools=[add, paint])
    result = chat.send("Go.")
    assert (calls_of(result), result.finish_reason) == (expected, "tool_calls")
    assert result.text.strip() == ("So:" if said.startswith("So:") else "")
    assert [call["id"] for call in chat.messages[1]["tool_calls"]] == [
        call.id for call in result.tool_calls
    ]


@pytest.mark.parametrize("name", SAID)
def test_streams_and_batches_have_the_same_calls(name: str, smollm2_path: Path) -> None:
    """No chunk has text of a call; every chunk of a call has its token."""
    template, said, expected = SAID[name]
    chat, _ = chat_with(said, template=template, tools=[add, paint])
    with chat.stream("Go.") as stream:
        chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == stream.result.text
    assert not any("{" in chunk.text for chunk in chunks)
    assert [c.token for c in chunks if c.token is not None] == list(stream.result.tokens)
    assert calls_of(stream.result) == expected


@pytest.mark.parametrize("template", ["llama-3.2", "chatml", "mistral-nemo", "python"])
def test_replies_do_not_call_for_ever(template: str) -> None:
    """A model that would always go on calling ends after 16 calls."""
    said = {
        "llama-3.2": "; ".join(['{"name": "nothing", "parameters": {}}'] * 20),
        "chatml": '<tool_call>\n{"name": "nothing", "arguments": {}}\n</tool_call>\n' * 20,
        "mistral-nemo": "[TOOL_CALLS]["
        + ", ".join(['{"name": "nothing", "arguments": {}}'] * 20)
        + "]",
        "python": f"[{', '.join(['nothing()'] * 20)}]",
    }[template]
    chat, _ = chat_with(said, template=template, tools=[nothing])
    result = chat.send("Go.")
    assert calls_of(result) == [("nothing", {})] * 16
    assert result.finish_reason == "tool_calls"


def test_text_is_text() -> None:
    """A reply without a call streams as it comes, and ends as always."""
    for template in TEMPLATES:
        chat, _ = chat_with("No {call} here.", template=template, tools=[add])
        with chat.stream("Go.") as stream:
            texts = [chunk.text for chunk in stream]
        assert texts[:3] == ["N", "o", " "]
        assert (stream.result.text, stream.result.finish_reason) == ("No {call} here.", "stop")
        assert stream.result.tool_calls == ()


WISHES = {
    "another tool": '{"name": "subtract", "parameters": {"a": 1}}',
    "a wrong type": '{"name": "add", "parameters": {"a": "one"}}',
    "no argument": '{"name": "add", "parameters": {}}',
    "another argument": '{"name": "add", "parameters": {"a": 1, "z": 2}}',
    "a wrong choice": '{"name": "paint", "parameters": {"colour": "green", "coats": [1.5]}}',
    "cut off": '{"name": "add", "parameters": {"a": 1',
}


def is_right(call: ToolCall) -> bool:
    """Whether a call is one of ``add`` or ``paint``, by its schema."""
    arguments = dict(call.arguments)
    if call.name == "add":
        numbers = {type(value) for value in arguments.values()}
        return "a" in arguments and arguments.keys() <= {"a", "b"} and numbers == {int}
    coats = arguments.pop("coats")
    right_coats = isinstance(coats, list) and all(type(coat) is int for coat in coats)
    return (
        call.name == "paint"
        and right_coats
        and arguments in ({"colour": "red"}, {"colour": "blue"})
    )


@pytest.mark.parametrize("wish", WISHES)
def test_calls_are_well_formed_whatever_the_model_wants(wish: str) -> None:
    """A model that would write another call writes one that the schema allows."""
    chat, _ = chat_with(WISHES[wish], tools=[add, paint], max_tokens=200, stop=["a"])
    result = chat.send("Go.")
    assert result.finish_reason in ("tool_calls", "length")
    assert all(map(is_right, result.tool_calls))
    assert result.tool_calls or result.finish_reason == "length"


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_noise_calls_well_formed(template: str) -> None:
    """Under tool_choice="required", even random logits make calls that are right."""
    for seed in range(6):
        rng = np.random.default_rng(seed)

        def noise(num_said: int, rng: Any = rng) -> Any:
            return rng.normal(0, 4, TOKENIZER.vocab_size).astype(np.float32)

        chat, _ = chat_with(noise, template=template, tools=[add, paint], tool_choice="required")
        result = chat.send("Go.", max_tokens=600, temperature=1, seed=seed)
        assert all(map(is_right, result.tool_calls))
        assert result.finish_reason == "tool_calls" or len(result.tokens) == 600


def test_the_choice_decides() -> None:
    """none shows and calls nothing, required and a name call in any case, one at a time."""
    said = '{"name": "add", "parameters": {"a": 1}}'
    chat, engine = chat_with(said, tools=[add], tool_choice="none")
    assert chat.send("Go.").text == said
    assert "add" not in TOKENIZER.decode(engine.forwarded[0])
    chat, engine = chat_with("No.", tools=[add, paint], tool_choice="required")
    assert chat.send("Go.", max_tokens=300).tool_calls
    assert "paint" in TOKENIZER.decode(engine.forwarded[0])
    for choice in ("paint", {"type": "function", "function": {"name": "paint"}}):
        painted = '{"name": "paint", "parameters": {"colour": "red", "coats": []}}'
        chat, _ = chat_with(painted, tools=[add, paint], tool_choice=choice)
        assert [call.name for call in chat.send("Go.", max_tokens=300).tool_calls] == ["paint"]
    chat, _ = chat_with(SAID["two"][1], tools=[add, paint], parallel_tool_calls=False)
    assert calls_of(chat.send("Go.")) == [("add", {"a": 1})]


@dataclass
class Person:
    """Somebody."""

    name: str
    age: int


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_tools_and_a_schema_go_together(template: str) -> None:
    """A reply calls, or is the answer that was asked for."""
    pytest.importorskip("msgspec")
    said = next(said for other, said, _ in SAID.values() if other == template)
    options: Any = {"template": template, "tools": [add, paint], "schema": Person}
    for reply in (said, '{"name": "Ada", "age": 36}'):
        chat, _ = chat_with(reply.removeprefix("So: "), **options)
        result = chat.send("Go.")
        if reply == said:
            assert result.tool_calls
            assert result.parsed is None
        else:
            assert (result.parsed, result.finish_reason) == (Person("Ada", 36), "stop")
            assert result.text == reply
    chat, _ = chat_with("No.", **options)
    result = chat.send("Go.", max_tokens=300)
    assert (
        result.tool_calls or isinstance(result.parsed, Person) or result.finish_reason == "length"
    )


NUMBER = {"type": "integer", "maximum": 9, "minimum": 0}


def test_only_described_arguments_are_written() -> None:
    """Objects inside arguments have the described fields alone, members of allOf each other's."""
    inner = {"type": "object", "properties": {"x": NUMBER}, "required": ["x"]}
    nested = Tool("f", "", {"type": "object", "properties": {"o": inner}, "required": ["o"]})
    said = '{"name": "f", "parameters": {"o": {"x": 1, "z": 2}}}'
    chat, _ = chat_with(said, tools=[nested])
    (call,) = chat.send("Go.", max_tokens=100, parallel_tool_calls=False).tool_calls
    assert call.arguments == {"o": {"x": 1}}
    parts = [{"properties": {name: NUMBER}, "required": [name]} for name in "ab"]
    joined = Tool("f", "", {"type": "object", "allOf": parts})
    said = '{"name": "f", "parameters": {"a": 1, "b": 2}}'
    chat, _ = chat_with(said, tools=[joined])
    assert calls_of(chat.send("Go.", max_tokens=100)) == [("f", {"a": 1, "b": 2})]


def test_a_call_that_is_cut_is_text() -> None:
    """max_tokens inside a call leaves no call, and what there was of it as text."""
    chat, _ = chat_with(SAID["json"][1], tools=[add])
    result = chat.send("Go.", max_tokens=20)
    assert (result.finish_reason, result.tool_calls) == ("length", ())
    assert result.text == SAID["json"][1][:20]


def test_a_stream_that_is_left_inside_a_call_adds_nothing() -> None:
    """A reply of which nothing was shown is no message, and the conversation goes on."""
    chat, _ = chat_with(SAID["json"][1], "Yes.", tools=[add])
    with chat.stream("Go.") as stream:
        for _ in range(30):
            next(stream)
    assert (stream.result.finish_reason, stream.result.text) == ("cancelled", "")
    assert chat.messages == []
    assert chat.send("Go on.").text == "Yes."


def brave_search(query: str) -> str:
    """Search the web."""
    return f"nothing about {query}"


BUILT_IN: dict[str, tuple[str, list[tuple[str, Any]]]] = {
    "a search": (
        '<|python_tag|>brave_search.call(query="the \\"best\\" glue")<|eom_id|>',
        [("brave_search", {"query": 'the "best" glue'})],
    ),
    "code": (
        "<|python_tag|>import math\nprint(math.pi)<|eom_id|>",
        [("code_interpreter", {"code": "import math\nprint(math.pi)"})],
    ),
    "a tool": (
        '<|python_tag|>{"name": "add", "parameters": {"a": 1}}<|eom_id|>',
        [("add", {"a": 1})],
    ),
    "text": ("Nothing to do.", []),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tools_are_called_by_name(name: str) -> None:
    """What Llama 3.1 has learned by name is shown and called in its own form."""
    said, expected = BUILT_IN[name]
    variables = {"builtin_tools": ["brave_search", "wolfram_alpha", "code_interpreter"]}
    options: Any = {"template": "llama-3.1", "template_variables": variables}
    chat, engine = chat_with(said, tools=[add], **options)
    result = chat.send("Go.")
    assert calls_of(result) == expected
    assert result.text == ("" if expected else said)
    prompt = TOKENIZER.decode(engine.forwarded[0])
    assert "Tools: brave_search, wolfram_alpha\n" in prompt
    assert '"name": "add"' in prompt
    assert '"name": "brave_search"' not in prompt


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
    assert engine.forwarded == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no list": ({"tools": add}, "tools is .*; allowed: a list"),
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice is 'required'"),
    "an unknown tool": ({"tools": [add], "tool_choice": "sub"}, "'sub'; allowed: .*add"),
    "another choice": ({"tools": [add], "tool_choice": 1}, "tool_choice is 1"),
    "no truth": ({"tools": [add], "parallel_tool_calls": 1}, "parallel_tool_calls is"),
    "no variables": ({"template_variables": ["a"]}, "template_variables is"),
    "own variables": ({"template_variables": {"tools": []}}, "template_variables has 'tools'"),
    "misspelt": ({"tool": [add]}, "did you mean tools"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_refused_at_once(name: str) -> None:
    """The error comes when the conversation is made, and names what is allowed."""
    options, message = WRONG[name]
    with pytest.raises(InvalidOptionError, match=message):
        chat_with("", **options)


def test_a_template_of_its_own_shows_tools() -> None:
    """A file's template for tools is used for chats that have some, the other one without."""
    metadata = {
        "tokenizer.chat_template": TEMPLATES["chatml"],
        "tokenizer.chat_template.tool_use": TEMPLATES["hermes-2-pro"],
    }
    chosen = load_chat_template(metadata, TOKENIZER)
    assert chosen is not None
    chat_format = ChatFormat(TOKENIZER, chosen)
    messages = checked_messages([{"role": "user", "content": "Go."}])
    texts = {}
    for tools in ([], [add]):
        asked = chat_format.reply_request({"tools": tools})
        texts[len(tools)] = TOKENIZER.decode(chat_format.prompt(asked, messages))
    assert texts[0].startswith("user\nGo.")
    assert "You are a function calling AI model." in texts[1]
    called = [*messages, *checked_messages([{"role": "tool", "content": "1"}])]
    shown = TOKENIZER.decode(chat_format.prompt(chat_format.reply_request({}), called))
    assert "user\n<tool_response>\n1\n</tool_response>" in shown


def test_names_that_a_form_cannot_write_are_refused() -> None:
    """A call in Python's words has a name that Python takes."""
    tool = Tool("paint-it")
    chat_with("", tools=[tool])
    with pytest.raises(ConstraintError, match=r"paint-it: .*names that Python takes"):
        chat_with("", template="python", tools=[tool])


def switch(on: bool, level: int = 1) -> None:
    """Switch something."""


def test_python_calls_have_pythons_values() -> None:
    """True and False are written as Python has them."""
    chat, _ = chat_with("[switch(on=True, level=3)]", template="python", tools=[switch])
    assert calls_of(chat.send("Go.")) == [("switch", {"on": True, "level": 3})]


def test_schemas_that_cannot_be_kept_to_are_refused() -> None:
    """The error names the tool and the keyword; nothing is dropped."""
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    with pytest.raises(ConstraintError, match=r"the tool f: .*not"):
        chat_with("", tools=[Tool("f", "", schema)])


def test_run_needs_functions() -> None:
    """Tools without functions are for callers who run them."""
    for options in ({}, {"tools": [Tool("f")]}, {"tools": [add], "max_rounds": 0}):
        chat, engine = chat_with("")
        with pytest.raises(InvalidOptionError, match="allowed"):
            chat.run("Go.", **options)
        assert engine.forwarded == []


def test_variables_reach_the_template() -> None:
    """template_variables are the template's."""
    chat, engine = chat_with("Hm.", template_variables={"date_string": "01 Jan 2030"})
    chat.send("Go.")
    assert "Today Date: 01 Jan 2030" in TOKENIZER.decode(engine.forwarded[0])


def test_conversations_with_calls_are_saved(tmp_path: Path) -> None:
    """Calls and results are read back as they were."""
    chat, _ = chat_with(SAID["json"][1], "1.", tools=[add])
    chat.run("Go.")
    chat.save(tmp_path / "talk.json")
    other, _ = chat_with("")
    other.load(tmp_path / "talk.json")
    assert other.messages == chat.messages


@pytest.fixture(scope="module")
def llama(smollm2_path: Path) -> Any:
    """The starter model."""
    with Llama(smollm2_path, context_length=1024) as loaded:
        yield loaded


def test_a_small_model_calls_well_formed(llama: Llama) -> None:
    """SmolLM2, which never learned it, calls as it is told to, alone and in a batch."""
    asked = [{"role": "user", "content": "Paint it red, please, with two coats."}]
    options: Any = {"tools": [add, paint], "tool_choice": "paint", "temperature": 0}
    with llama.chat(messages=asked, **options) as chat:
        result = chat.regenerate(max_tokens=120).wait()
    assert result.tool_calls
    assert all(map(is_right, result.tool_calls))
    (batched,) = llama.generate_batch([{"messages": asked}], max_tokens=120, **options)
    assert calls_of(batched) == calls_of(result)


def test_a_small_model_answers_with_a_result(llama: Llama) -> None:
    """A reply that would begin with the tag of a result, as SmolLM2's do, says something else."""
    options: Any = {"tools": [add], "temperature": 0, "max_tokens": 60}
    for question in ("What is 2 + 3?", "What is 17 + 25?"):
        with llama.chat(**options) as chat:
            reply = chat.run(question, tool_choice="add")
            assert chat.messages[2]["content"] in reply.text
            assert "<tool_response>" not in reply.text


@pytest.mark.parametrize("name", ["code-llama", "open-llama"])
def test_vocabularies_that_change_spaces_call_well_formed(name: str, tmp_path: Path) -> None:
    """SentencePiece's own spaces, put before a text or taken from it, break no call."""
    member = next(member for member in MEMBERS if member.name == name)
    convert(member.write(tmp_path / "checkpoint"), tmp_path / "model.gguf", type="f32")
    options: Any = {"tools": [paint], "tool_choice": "required", "parallel_tool_calls": False}
    with Llama(tmp_path / "model.gguf", context_length=1024, num_threads=1) as llama:
        for seed in range(4):
            with llama.chat(template="chatml", temperature=1, seed=seed, **options) as chat:
                result = chat.send("Go.", max_tokens=200)
            assert all(map(is_right, result.tool_calls))
            assert result.tool_calls or result.finish_reason == "length"


def test_lines_of_a_batch_have_tools(
    smollm2_path: Path, run_cli: CliRunner, tmp_path: Path
) -> None:
    """A line's tools hold for it, and its calls are in the output, ready to be messages."""
    asked = {"messages": [{"role": "user", "content": "Paint it red."}], "tool_choice": "required"}
    line = {**asked, "id": 1, "tools": [Tool.of(paint).as_openai()], "temperature": 0}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    done = run_cli(
        "batch", smollm2_path, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "-c", "512"
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert written["finish_reason"] == "tool_calls"
    (message,) = checked_messages([{"role": "assistant", "tool_calls": written["tool_calls"]}])
    assert message["tool_calls"][0]["function"]["name"] == "paint"


def test_prompts_take_no_tools(llama: Llama) -> None:
    """generate has no messages to answer, so it has no tools; a batch has them for its chats."""
    options: Any = {"tools": [add], "max_tokens": 2}
    with pytest.raises(EdgellamaError, match="tools"):
        llama.generate("Once", **options)
    (result,) = llama.generate_batch(["Once"], temperature=0, **options)
    assert len(result.tokens) == 2
