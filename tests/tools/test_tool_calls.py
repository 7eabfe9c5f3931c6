"""Replies that call tools: well formed whatever a model likes best, hidden in streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CliRunner
from reference.family import MEMBERS
from reference.tool_chats import (
    SAID,
    TAGS,
    TEMPLATES,
    TOKENIZER,
    Person,
    add,
    calls_of,
    chat_with,
    nothing,
    paint,
    tokenizer_with,
)

from edgellama.convert import convert
from edgellama.generation.chat.chat_format import ChatFormat
from edgellama.generation.chat.messages import checked_messages
from edgellama.llama import Llama
from edgellama.quant.errors import ConstraintError, EdgellamaError, InvalidOptionError
from edgellama.text.chat_template import load_chat_template
from edgellama.tools.forms import FORMS
from edgellama.tools.tool import Tool, ToolCall

pytest.importorskip("llguidance")

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


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_tools_and_any_json_go_together(template: str) -> None:
    """A reply calls, or is any object, whatever form calls have."""
    said = next(said for other, said, _ in SAID.values() if other == template)
    options: Any = {"template": template, "tools": [add, paint], "json": True}
    chat, _ = chat_with(said.removeprefix("So: "), **options)
    assert chat.send("Go.").tool_calls
    chat, _ = chat_with('{"of": [1.5, {}]}', **options)
    assert chat.send("Go.").text == '{"of": [1.5, {}]}'


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


def test_names_that_python_does_not_take_are_called() -> None:
    """Tools and arguments may have any names that schemas have, where calls are Python's too."""
    names = ["from", "user-id", "größe"]
    schema = {"type": "object", "properties": {key: {"type": "integer"} for key in names}}
    tool = Tool("get-it", "", schema | {"required": names})
    said = "[get-it(from=1, user-id=2, größe=3)]"
    chat, _ = chat_with(said, template="python", tools=[tool])
    (call,) = chat.send("Go.").tool_calls
    assert (call.name, call.arguments) == ("get-it", {"from": 1, "user-id": 2, "größe": 3})


@pytest.mark.parametrize(("name", "argument"), [("7zip", "a"), ("zip", "a b"), ("zip", "None")])
def test_names_that_a_form_cannot_write_are_refused(name: str, argument: str) -> None:
    """A name that could not be read in a call of Python's is refused before; JSON takes any."""
    tool = Tool(name, "", {"type": "object", "properties": {argument: {}}})
    chat_with("", tools=[tool])
    with pytest.raises(ConstraintError, match=rf"the tool {name}: .*allowed: letters"):
        chat_with("", template="python", tools=[tool])


SCHEMAS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "a place": (
        {"properties": {"a": {"enum": [1]}, "b": {"$ref": "#/properties/a"}}},
        [{"a": 1, "b": 1}],
    ),
    "the whole": (
        {"properties": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}},
        [{"a": {"a": None}}],
    ),
    "a definition": (
        {"properties": {"b": {"$ref": "#/$defs/x-y"}}, "$defs": {"x-y": {"enum": ["u"]}}},
        [{"b": "u"}],
    ),
    "undeclared": (
        {"properties": {"a": {"enum": [1]}}, "required": ["a", "z"]},
        [{"a": 1, "z": [2]}],
    ),
    "never there": ({"properties": {"a": False, "b": {"type": "null"}}}, [{"b": None}]),
    "enough": ({"properties": {"a": {"enum": [1]}}, "minProperties": 0}, [{"a": 1}]),
    "llguidance's word": (
        {"properties": {"x-guidance": {"type": "boolean"}}},
        [{"x-guidance": True}],
    ),
}
"""Schemas, with arguments that they allow."""


def written(value: Any) -> str:
    """An argument as our grammar has it in Python: JSON, but for its three words alone."""
    return repr(value) if value in (True, False, None) else json.dumps(value)


@pytest.mark.parametrize("template", ["python", "llama-3.2", "chatml"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_kept_to_in_every_form(name: str, template: str) -> None:
    """References to any place, and what is required or forbidden, mean the same in Python."""
    schema, (arguments,) = SCHEMAS[name]
    tool = Tool("f", "", {"type": "object", "required": list(arguments), **schema})
    said = {
        "python": f"[f({', '.join(f'{key}={written(arguments[key])}' for key in arguments)})]",
        "llama-3.2": json.dumps({"name": "f", "parameters": arguments}),
        "chatml": FORMS["tagged"].written("f", arguments),
    }
    chat, _ = chat_with(said[template], template=template, tools=[tool])
    options: Any = {"tool_choice": "f", "max_tokens": 200}
    assert calls_of(chat.send("Go.", **options)) == [("f", arguments)]


@pytest.mark.parametrize(
    "rule",
    [
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"allOf": [{"required": ["a"]}]},
        {"minProperties": 1},
        {"maxProperties": 1},
    ],
)
def test_rules_of_all_arguments_are_refused_in_python(rule: dict[str, Any]) -> None:
    """What cannot be kept to is no rule that is passed over."""
    tool = Tool("f", "", {"type": "object", "properties": {"a": {}, "b": {}}, **rule})
    with pytest.raises(ConstraintError, match=rf"the tool f: .* cannot keep to {min(rule)} of all"):
        chat_with("", template="python", tools=[tool])


def test_tools_that_are_not_strict_are_called_in_python_without_such_rules() -> None:
    """And without arguments whose names Python lacks; the others keep to their schemas."""
    properties = {"a": {"const": 1}, "b c": {"type": "string"}}
    rule = {"required": ["a", "b c"], "minProperties": 2, "anyOf": [{"required": ["a"]}]}
    tool = Tool("f", "", {"type": "object", "properties": properties, **rule}, strict=False)
    chat, _ = chat_with("[f(a=1)]", template="python", tools=[tool])
    options: Any = {"tool_choice": "f", "max_tokens": 200}
    assert calls_of(chat.send("Go.", **options)) == [("f", {"a": 1})]


def test_errors_of_tools_show_no_grammar() -> None:
    """What llguidance says of lines that we have written is left out."""
    schema = {"type": "object", "properties": {"a": {"pattern": "("}}}
    with pytest.raises(ConstraintError) as raised:
        chat_with("", tools=[Tool("f", "", schema)])[0].send("Go.")
    assert "unclosed group;" in str(raised.value) and "one_call" not in str(raised.value)


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
