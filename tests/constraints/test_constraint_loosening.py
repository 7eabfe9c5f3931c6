"""What is left of a tool's schema where not all of it can be kept to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from harness.servers import running_server
from hypothesis import given
from hypothesis import strategies as st
from reference.constraint_texts import byte_tokenizer
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Tool
from edgellama.constraints.answer_form import answer_form
from edgellama.constraints.compiler import ConstraintCompiler
from edgellama.constraints.loosening import loosened
from edgellama.quant.errors import ConstraintError, InvalidOptionError
from edgellama.server.settings import ServerSettings

FOUND = {
    "uniqueItems": ({"type": "array", "uniqueItems": True}, {"type": "array"}),
    "not": ({"not": {"type": "null"}}, {}),
    "if": ({"type": "string", "if": {"minLength": 1}, "then": {}}, {"type": "string"}),
    "format": ({"type": "string", "format": "jinja2", "maxLength": 3}, None),
    "look-ahead": ({"type": "string", "pattern": "^(?!foo).*$"}, {"type": "string"}),
    "no regex": ({"type": "string", "pattern": "["}, {"type": "string"}),
    "draft 4": ({"minimum": 0, "exclusiveMinimum": True}, {"minimum": 0}),
    "list of items": ({"type": "array", "items": [{"type": "string"}]}, {"type": "array"}),
    "editor": ({"type": "string", "enumDescriptions": ["a"]}, {"type": "string"}),
    "required": ({"type": "string", "required": True}, {"type": "string"}),
    "no choice": ({"type": "string", "enum": []}, {"type": "string"}),
    "no such place": ({"$ref": "#/$defs/nothing"}, {}),
    "another file": ({"$ref": "http://example.org/y.json"}, {}),
    "any": ({"type": "any"}, {}),
    "contains": ({"type": "array", "contains": {}}, {"type": "array"}),
    "control": ({"type": "string", "enum": ["a\x01b"]}, {"type": "string"}),
    "overlap": (
        {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
        {"anyOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
    ),
    "no number": ({"type": "integer", "minimum": 5, "maximum": 3}, {}),
    "no value": ({"type": "string", "const": 5}, {}),
    "no type": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, {}),
    "inside": ({"anyOf": [{"type": "string", "format": "x"}]}, {"anyOf": [{"type": "string"}]}),
}
"""Schemas of arguments as tools have them, and what can be kept to of each."""


def of_tool(schema: Any) -> dict[str, Any]:
    """A tool's schema with one argument."""
    return {"type": "object", "properties": {"x": schema}, "required": ["x"]}


@pytest.mark.parametrize("name", FOUND)
def test_only_what_cannot_be_kept_to_goes(name: str) -> None:
    """The rest of the schema stays as it is, beside others' rules too."""
    schema, left = FOUND[name]
    left = {"type": "string", "maxLength": 3} if left is None else left
    whole = of_tool(schema)
    whole["properties"]["y"] = {"type": "integer", "maximum": 5}
    expected = of_tool(left)
    expected["properties"]["y"] = {"type": "integer", "maximum": 5}
    assert loosened(whole) == expected


def test_what_can_be_kept_to_is_left_as_it_is() -> None:
    """A schema that can be kept to keeps all it says, references and descriptions included."""
    schema = of_tool({"$ref": "#/$defs/a"}) | {"$defs": {"a": {"type": "string", "title": "A"}}}
    assert loosened(schema) == schema


def test_where_nothing_helps_any_object_follows() -> None:
    """A schema that contradicts itself as a whole becomes one of any object."""
    schema = {"type": "object", "const": "x", "properties": {"x": {}}}
    assert loosened(schema) == {"type": "object", "additionalProperties": True}


@pytest.mark.parametrize(
    "rule",
    [
        {"minProperties": 2, "maxProperties": 1},
        {"propertyNames": {"minLength": 3, "format": "date"}},
        {"allOf": [{"type": "string"}]},
        {"additionalProperties": False, "required": ["z"]},
    ],
)
def test_a_rule_of_the_whole_object_takes_no_properties_with_it(rule: dict[str, Any]) -> None:
    """Where it cannot be kept to, all properties are described as before."""
    properties = {"x": {"type": "integer"}, "y": {"type": "string", "maxLength": 3}}
    left = loosened({"type": "object", "properties": properties, **rule})
    assert left["properties"] == properties


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["object", "#", "[", "date"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "properties", "items", "enum", "$ref", "pattern", "format"),
                    *("required", "$defs", "oneOf", "not", "minItems", "propertyNames", "allOf"),
                    *("minimum", "maximum", "const", "maxProperties"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


COMPILER = ConstraintCompiler(byte_tokenizer())


@given(st.dictionaries(st.sampled_from(["a", "b"]), JSON, max_size=2), JSON)
def test_whatever_a_tool_says_can_be_kept_to_then(properties: Any, more: Any) -> None:
    """Any JSON in the place of a schema becomes one that can be kept to."""
    schema = {"type": "object", "properties": properties, "$defs": more}
    form = answer_form({"schema": loosened(schema)})
    assert form is not None
    COMPILER.constraint(form, continuation=False)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server of a tiny model with room for tools."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_llama(path, TinyLlama(context_length=2048))
    settings = ServerSettings(models={"tiny": path}, only_given=True)
    with running_server(settings) as running, running.client() as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_a_tool_that_is_not_strict_ends_no_request(client: httpx.Client, path: str) -> None:
    """It is called by what can be kept to of its schema; with strict it is refused."""
    schema = of_tool({"type": "integer", "enum": [7], "format": "odd"})
    inner = {"name": "f", "description": "d"}
    for strict, status in ((None, 200), (False, 200), (True, 400)):
        said = {} if strict is None else {"strict": strict}
        tool = {"type": "function", "function": {**inner, "parameters": schema, **said}}
        choice: Any = "required"
        if path == "/v1/messages":
            tool, choice = {**inner, "input_schema": schema, **said}, {"type": "any"}
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
        asked |= {"tools": [tool], "tool_choice": choice, "max_tokens": 60, "temperature": 0}
        answer = client.post(path, json=asked)
        assert answer.status_code == status, answer.text
        if status == 200:
            assert '"x":7' in answer.text.replace(" ", "").replace("\\", "")
        else:
            assert "format" in json.dumps(answer.json()["error"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/responses"])
def test_words_of_programs_in_the_schema_of_an_answer(client: httpx.Client, path: str) -> None:
    """As browser-use's and editors': they say nothing, at any depth; other rules hold, or are
    refused by name."""
    inner = {"type": "integer", "enum": [7], "min_items": 1, "enumDescriptions": ["seven"]}
    for schema, status in (
        ({**of_tool(inner), "additionalProperties": False, "propertyOrdering": ["x"]}, 200),
        (of_tool({**inner, "not": {}}), 400),
    ):
        strict = {"name": "a", "strict": True, "schema": schema}
        asked: dict[str, Any] = {
            "/v1/chat/completions": {"response_format": {"json_schema": strict}},
            "/api/chat": {"format": schema, "stream": False},
            "/v1/responses": {"text": {"format": {"type": "json_schema", **strict}}},
        }[path]
        said = [{"role": "user", "content": "Hi"}]
        if path == "/v1/responses":
            asked |= {"input": said, "store": False}
        else:
            asked |= {"messages": said, "max_tokens": 40}
        if "response_format" in asked:
            asked["response_format"]["type"] = "json_schema"
        answer = client.post(path, json={"model": "tiny", "temperature": 0, **asked})
        assert answer.status_code == status, answer.text
        if status == 200:
            assert '"x":7' in answer.text.replace(" ", "").replace("\\", "")
        else:
            assert "not" in json.dumps(answer.json()["error"])


def test_in_python_a_tool_is_strict_unless_it_says_otherwise() -> None:
    """By its field, or as OpenAI's clients write it."""
    parameters = of_tool({"type": "string"})
    assert Tool("f", "", parameters).strict
    named = {"name": "f", "parameters": parameters}
    assert Tool.of({"type": "function", "function": named}).strict
    assert not Tool.of({"type": "function", "function": {**named, "strict": False}}).strict


def test_arguments_that_may_be_nothing_are_an_object() -> None:
    """A type of object or null is an object; any other is refused."""
    tool = Tool.of({"function": {"name": "f", "parameters": {"type": ["object", "null"]}}})
    assert tool.parameters["type"] == "object"
    with pytest.raises(InvalidOptionError, match='"object"'):
        Tool.of({"function": {"name": "f", "parameters": {"type": ["string", "null"]}}})


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    """Size and depth are bounded with and without strict."""
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"items": schema}
    with pytest.raises(ConstraintError, match="deep"):
        loosened(of_tool(schema))
