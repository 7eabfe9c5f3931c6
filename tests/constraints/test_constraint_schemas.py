"""JSON Schemas as constraints: what is claimed is kept to, the rest is refused with its place."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA
from reference.constraint_texts import allows_text, random_text, schema_allows
from reference.make_schema_golden import outcome

from edgellama.constraints.answer_form import AnswerForm, answer_form
from edgellama.constraints.compiler import ConstraintCompiler
from edgellama.constraints.keywords import KEYWORDS
from edgellama.quant.errors import ConstraintError, InvalidOptionError

GOLDEN = DATA / "schema_golden.json"
CASES: list[Any] = json.loads(GOLDEN.read_text("utf-8"))["cases"]
NOT_CLAIMED = {
    *("'not'", "'if'", "'then'", "'else'", "'dependentSchemas'", "'contentSchema'"),
    *("'unevaluatedProperties'", '"$dynamicAnchor"', "uniqueItems is true", "beside properties"),
    *("schema is false", "false, which", "members of oneOf", "are not disjoint", "too many digits"),
    "control character",
}
"""Words of the reasons for which schemas of the suite are refused."""


def form_of(schema: Any) -> AnswerForm:
    """The form of a schema."""
    form = answer_form({"schema": schema})
    assert form is not None
    return form


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}: {case[1]}" for case in CASES])
def test_the_suite(case: Any) -> None:
    """What is generated is valid; what is valid and not generated, or refused, is as recorded."""
    _, _, schema, values, valid, recorded = case
    found = outcome(schema, values)
    assert found == recorded
    if isinstance(found, list):
        assert not any(made and not right for made, right in zip(found, valid, strict=True))
    else:
        assert any(words in found for words in NOT_CLAIMED)


def test_the_suite_is_decided_nearly_everywhere() -> None:
    """Of the values of schemas that are not refused, nearly all that are valid are generated."""
    pairs = [
        (made, right)
        for *_, valid, recorded in CASES
        if isinstance(recorded, list)
        for made, right in zip(recorded, valid, strict=True)
    ]
    missed = [pair for pair in pairs if pair == (False, True)]
    assert len(pairs) > 600
    assert len(missed) < 30
    assert {case[0] for case in CASES} >= KEYWORDS.keys() - {"$ref", "format", "nullable"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"not": {}}}}, "at #/properties/a: the keyword 'not'"),
        ({"requierd": ["a"]}, "'requierd' is not supported, did you mean required?"),
        ({"anyOf": [{}, {"if": {}}]}, "at #/anyOf/1: the keyword 'if'"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"x": 1}}}, "at #/$defs/a: the keyword 'x'"),
        ({"items": [{}]}, "items is [{}]; allowed: a schema; several go into prefixItems"),
        ({"minItems": -1}, "minItems is -1; allowed: a whole number from 0"),
        ({"minimum": "1"}, "allowed: a number"),
        ({"type": "text"}, 'type is "text"; allowed: one or several of null'),
        ({"type": "string", "format": "regex"}, 'format is "regex"; allowed: date'),
        ({"maximum": 2**53 + 1}, "64-bit float"),
        ({"maximum": 10**400}, "64-bit float"),
        ({"enum": []}, "allowed: a list, not empty"),
        ({"x-guidance": {"lenient": True}}, "'x-guidance' is not supported"),
        ({"$schema": "http://example.org/mine"}, "allowed: a draft of json-schema.org"),
        ({"const": "\x00"}, "control character"),
        ({"const": "\ud800"}, "surrogate"),
        ({"$ref": "#/nothing"}, "refers to '#/nothing', which it does not have"),
        ({"properties": {"a": {"$ref": "http://example.org/x"}}}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "no text can follow it"),
        ({"properties": {"a": {"oneOf": [{"type": "string"}, {"minLength": 2}]}}}, "at #/prop"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "at #/properties/a: regex parse error"),
        ({"minimum": 3, "maximum": 1, "type": "integer"}, "minimum (3) is greater"),
        ({"propertyNames": {"enum": ["a"], "minLength": 2}}, "at #/propertyNames: other rules"),
        ({"propertyNames": {"pattern": "a"}, "properties": {"a": {}}}, "names beside properties"),
        ({"$ref": "#a", "$defs": {"b": {"$anchor": "a", "requierd": []}}}, "at #/$defs/b: the key"),
        ({"minProperties": 2}, "further names may repeat each other"),
        ({"minProperties": 3, "required": ["a"]}, "allowed: up to 2"),
        (False, "false, which no text follows"),
        ("{", "which is no JSON"),
        ([1], "cannot be described"),
        (type("Plain", (), {}), "a class whose fields have types"),
        ({"const": {1, 2}}, "cannot be written as JSON"),
        ({"const": float("nan")}, "cannot be written as JSON"),
    ],
)
def test_what_cannot_be_kept_to_is_refused(schema: Any, words: str) -> None:
    """The error names the keyword and its place, before there is any token."""
    with pytest.raises(ConstraintError) as caught:
        allows_text(form_of(schema), "")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"title": "t", "description": "d", "default": {}, "examples": [1], "x-mine": 2},
        {"$defs": {"unused": {"not": {}}}, "$comment": "definitions that nothing refers to"},
        {"uniqueItems": False, "deprecated": True},
    ],
)
def test_what_says_nothing_is_let_through(schema: Any) -> None:
    """Annotations, and definitions that nothing refers to, refuse no value."""
    assert all(schema_allows(schema, value) for value in (1, "a", [1, 1], {"b": None}))


def test_null_beside_a_type() -> None:
    """OpenAPI's ``nullable`` adds null to a type, and says nothing without one."""
    schema = {"type": "string", "maxLength": 2, "nullable": True}
    assert [schema_allows(schema, value) for value in (None, "ab", "abc", 1)] == [
        *(True, True, False, False)
    ]
    assert not schema_allows({"type": "string", "nullable": False}, None)
    assert schema_allows({"nullable": True, "enum": [1]}, 1)
    assert not schema_allows({"nullable": True, "enum": [1]}, None)


def test_a_name_cannot_come_again_in_another_spelling() -> None:
    """Declared names stand once, and escapes cannot spell them in another way."""
    schema = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    form = form_of({"type": "object", **schema})
    assert allows_text(form, '{"a": 1, "b": "x"}')
    assert not allows_text(form, '{"a": 1, "a": "x"}')
    assert not allows_text(form, '{"a": 1, "\\u0061": "x"}')


@pytest.mark.parametrize("name", ["date", "date-time"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_dates_are_in_the_calendar(name: str, seed: int) -> None:
    """Whatever is generated as a date is one that Python has."""
    text = random_text(form_of({"type": "string", "format": name}), np.random.default_rng(seed))
    assert text is not None
    value = json.loads(text)
    read = date.fromisoformat(value[:10])
    assert read.year >= 1
    if name == "date-time":
        datetime.strptime(value[11:19], "%H:%M:%S")


SCALARS = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-50, 50),
        st.integers(0, 200),
    ),
    st.builds(
        lambda low, size: {"type": "number", "minimum": low, "exclusiveMaximum": low + size},
        st.integers(-50, 50),
        st.integers(1, 20),
    ),
    st.builds(
        lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
        st.integers(0, 4),
        st.integers(0, 8),
    ),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(["^a+b?$"])),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.sampled_from([None, True, 3, -2.5, "é", "a\nb", [1], {"k": 0}]), min_size=1),
    ),
)


def _object(names: dict[str, Any], required: list[str], is_open: bool) -> dict[str, Any]:
    wanted = [name for name in names if name in required]
    return {"type": "object", "properties": names, "required": wanted} | (
        {} if is_open else {"additionalProperties": False}
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(
            lambda items, low, size: {
                "type": "array",
                "items": items,
                "minItems": low,
                "maxItems": low + size,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.builds(
            _object,
            st.dictionaries(st.sampled_from(["a", "b c", "ü", '"', "/~"]), inner, max_size=3),
            st.lists(st.sampled_from(["a", "b c", "ü", '"'])),
            st.booleans(),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_random_texts_parse_and_are_valid(schema: Any, seed: int) -> None:
    """Whatever is drawn, a text that ends is JSON and follows its schema."""
    text = random_text(form_of(schema), np.random.default_rng(seed))
    if text is not None:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_what_was_generated_may_be_generated(schema: Any, seed: int) -> None:
    """A text that a constraint led to is allowed by another constraint of the same form."""
    text = random_text(form_of(schema), np.random.default_rng(seed))
    assert text is None or allows_text(form_of(schema), text)


def _nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def _doubling(keyword: str) -> Any:
    """References that would become 2**40 schemas if they were written out."""
    two = [[{"$ref": f"#/$defs/d{n + 1}"}] * 2 for n in range(40)]
    return {"$ref": "#/$defs/d0", "$defs": {f"d{n}": {keyword: two[n]} for n in range(40)}}


HOSTILE: dict[str, Any] = {
    "nested": _nested(49),
    "nested too deeply": _nested(400),
    "brackets": "[" * 100_000,
    "huge enum": {"enum": [f"{n:060}" for n in range(100_000)]},
    "large enum": {"enum": [f"{n}" for n in range(5_000)]},
    "counted twice": {"type": "string", "pattern": "^(a{300}){300}$"},
    "catastrophic": {"type": "string", "pattern": "^((a+)+)+b$"},
    "long text": {"type": "string", "maxLength": 10**12},
    "long list": {"type": "array", "minItems": 10**12},
    "many names": {"properties": {f"p{n}": {"type": "integer"} for n in range(2000)}},
    "doubling all": _doubling("allOf"),
    "doubling any": _doubling("anyOf"),
    "a chain": {
        "$defs": {
            f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}}
            for n in range(3000)
        }
        | {"d3000": {}},
        "$ref": "#/$defs/d0",
    },
    "many parts": {"anyOf": [{"const": n} for n in range(40_000)]},
    "many anchors": {
        "$defs": {f"d{n}": {"$anchor": f"d{n}", "$ref": f"#d{n + 1}"} for n in range(5000)}
        | {"d5000": {"$anchor": "d5000"}},
        "$ref": "#d0",
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_end_soon(name: str) -> None:
    """A hostile schema is compiled, or refused in plain words, in bounded time."""
    try:
        allows_text(form_of(HOSTILE[name]), '{"a')
    except ConstraintError as error:
        assert len(str(error)) < 1000


def test_compiled_forms_are_used_again() -> None:
    """The same schema is compiled once, and no more than a few are kept."""
    from reference.constraint_texts import byte_tokenizer

    from edgellama.constraints.compiler import MAX_KEPT

    compiler = ConstraintCompiler(byte_tokenizer())
    for number in range(MAX_KEPT + 10):
        compiler.constraint(form_of({"const": number}), continuation=True)
        compiler.constraint(form_of({"const": 5}), continuation=True)
    assert len(compiler._kept) == MAX_KEPT
    assert form_of({"const": 5}).grammar in compiler._kept


def test_one_form_at_a_time() -> None:
    """Two forms at once are refused, None and False count for none."""
    with pytest.raises(InvalidOptionError, match="schema and regex are given"):
        answer_form({"schema": {}, "regex": "a"})
    assert answer_form({"schema": None, "json": False, "regex": None}) is None
    with pytest.raises(InvalidOptionError, match="json is 1"):
        answer_form({"json": 1})
