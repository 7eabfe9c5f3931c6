"""Calls in replies: every form is read, nothing hostile is run or raised, no call is shown."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.quant.given_values import MAX_DEPTH
from edgellama.tools.call_pieces import CallPiece
from edgellama.tools.call_splitter import CallSplitter
from edgellama.tools.forms import FORMS
from edgellama.tools.python_literals import is_readable_name
from edgellama.tools.reading import READERS, ReadCall, read_calls

F = ReadCall("f", {"a": 1})
G = ReadCall("g", {})
READ: dict[str, tuple[str, list[ReadCall], str]] = {
    "llama 3.1": ('{"name": "f", "parameters": {"a": 1}}', [F], ""),
    "with a type": ('{"type": "function", "name": "f", "parameters": {"a": 1}}', [F], ""),
    "white space before": ('\n\n {"name": "f", "parameters": {"a": 1}}\n', [F], "\n"),
    "arguments": ('{"name": "f", "arguments": {"a": 1}}', [F], ""),
    "arguments as text": ('{"name": "f", "arguments": "{\\"a\\": 1}"}', [F], ""),
    "several": (
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
        [F, G],
        "",
    ),
    "a list": (
        '[{"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": {}}]',
        [F, G],
        "",
    ),
    "text behind": ('{"name": "g", "parameters": {}} Done.', [G], " Done."),
    "tag and JSON": ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [F], ""),
    "text, tag and JSON": ('Wait. <|python_tag|>{"name": "g", "parameters": {}}', [G], "Wait."),
    "a tag inside": (
        '{"name": "f", "parameters": {"a": "<|python_tag|>"}}',
        [ReadCall("f", {"a": "<|python_tag|>"})],
        "",
    ),
    "built in": (
        '<|python_tag|>brave_search.call(query="the \\"best\\"")',
        [ReadCall("brave_search", {"query": 'the "best"'})],
        "",
    ),
    "code": (
        "<|python_tag|>import os\nprint(1)",
        [ReadCall("code_interpreter", {"code": "import os\nprint(1)"})],
        "",
    ),
    "python": (
        "[f(a=1), g()]",
        [F, G],
        "",
    ),
    "python's values": (
        "[f(a=-1.5, b=['x', None], c={'d': True}, e=(1, 2), f=false), mod.g()] Done.",
        [
            ReadCall("f", {"a": -1.5, "b": ["x", None], "c": {"d": True}, "e": [1, 2], "f": False}),
            ReadCall("mod.g", {}),
        ],
        "Done.",
    ),
    "python's escapes": (
        r"""[f(a="\d\\d\"\n")]""",
        [ReadCall("f", {"a": '\\d\\d"\n'})],
        "",
    ),
    "names that Python does not take": (
        '[f(from="here", user-id=1, größe=2), get-it.import(lambda=3)]',
        [
            ReadCall("f", {"from": "here", "user-id": 1, "größe": 2}),
            ReadCall("get-it.import", {"lambda": 3}),
        ],
        "",
    ),
    "python's surrogate pairs": (
        r'[f(a="\ud83e\udd99 \ud83e")]',
        [ReadCall("f", {"a": "\N{LLAMA} \N{REPLACEMENT CHARACTER}"})],
        "",
    ),
    "hermes": ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [F], ""),
    "hermes, two": (
        'So: <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n'
        '<tool_call>{"arguments": {}, "name": "g"}</tool_call> Done.',
        [F, G],
        "So: \n Done.",
    ),
    "hermes, not closed": ('<tool_call>{"name": "g", "arguments": {}}', [G], ""),
    "a closing tag inside": (
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
        [ReadCall("f", {"a": "</tool_call>"})],
        "",
    ),
    "smollm2": (
        '<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]'
        "</tool_call>",
        [F, G],
        "",
    ),
    "mistral": (
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abc123DEF"}]',
        [ReadCall("f", {"a": 1}, "abc123DEF")],
        "",
    ),
    "mistral's newer": ('[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', [F, G], ""),
    "a mark inside": (
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": "[TOOL_CALLS]"}}]',
        [ReadCall("f", {"a": "[TOOL_CALLS]"})],
        "",
    ),
}
TEXT = (
    "",
    "Hello.",
    '{"name": "f"}',
    '{"name": 1, "parameters": {}}',
    '{"name": "f", "parameters": [1]}',
    '{"name": "f", "parameters": "a"}',
    '{"name": "f", "parameters": {"a": NaN}}',
    '{"name": "f", "parameters": {"a": 1e999}}',
    '{"name": "f", "parameters": {"a": 1}',
    "Call it: {'name': 'f', 'parameters': {}}",
    "[1, 2, 3]",
    "[f]",
    "[f(1)]",
    "[f(*a)]",
    "[f(**a)]",
    "[f(a=1, a=2)]",
    "[f(a=b)]",
    "[f(a=g())]",
    "[f(a=[x for x in y])]",
    "[f(a=1 + 1)]",
    "[f(a=1e999)]",
    "[f(None=1)]",
    "[f(a=b'1')]",
    "[f(a=f'{g()}')]",
    "[f(a=__import__('os').system('true'))]",
    "[(lambda: 1)()]",
    "<tool_call>",
    "<tool_call>f</tool_call>",
    "<tool_call>{}</tool_call>",
    "[TOOL_CALLS]",
    "[TOOL_CALLS] []",
    "[TOOL_CALLS]f[ARGS]1",
    "<|python_tag|>",
)
HOSTILE = {
    "brackets": "[" * 200_000,
    "objects": '{"a":' * 200_000,
    "python's brackets": "[f(a=" + "[" * 200_000,
    "python's signs": "[f(a=" + "-" * 200_000 + "1)]",
    "python's dots": "[f(a=a" + ".a" * 100_000 + ")]",
    "python's strings": "[f(a='" + "\\" * 200_001,
    "tags": "<tool_call>" * 50_000,
    "tagged lists": "<tool_call>[" * 50_000,
    "marks": "[TOOL_CALLS]" * 50_000,
    "a long number": '{"name": "f", "parameters": {"a": ' + "9" * 200_000 + "}}",
    "deep arguments": '{"name": "f", "parameters": {"a": '
    + "[" * MAX_DEPTH
    + "]" * MAX_DEPTH
    + "}}",
    "spaces": " " * 200_000 + "x",
    "zero bytes": "[f(a='\0')]\0",
}


@pytest.mark.parametrize("name", READ)
def test_every_form_is_read(name: str) -> None:
    """Calls are read in their order, and so is the text besides."""
    text, calls, rest = READ[name]
    assert read_calls(text) == (tuple(calls), rest)


@pytest.mark.parametrize("text", TEXT)
def test_what_is_no_call_stays_text(text: str) -> None:
    """Nothing of it is lost, whatever form is looked for."""
    for form in (None, *READERS):
        assert read_calls(text, form=form) == ((), text)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_stay_text(name: str) -> None:
    """Deep, long and endless texts raise nothing and are no calls."""
    text = HOSTILE[name]
    for form in READERS:
        reading = read_calls(text, form=form)
        if name != "zero bytes":
            assert reading == ((), text)


@given(st.text(alphabet=st.sampled_from("{}[]()\"\\'=,:;<>/ \nfg1-.a_|"), max_size=60))
def test_any_text_is_read(text: str) -> None:
    """Whatever a model writes, it gives calls or stays as it is."""
    for form in (None, *READERS):
        reading = read_calls(text, form=form)
        assert reading.calls or reading.text == text


@given(st.binary(max_size=60))
def test_any_bytes_are_read(data: bytes) -> None:
    """Any characters behind every mark are read without an error."""
    text = data.decode("utf-8", "replace")
    for form in FORMS.values():
        read_calls(form.mark + text, form=form.name)


def test_other_names_are_no_calls() -> None:
    """A tool that there is not is text."""
    for text, calls, _ in READ.values():
        names = {call.name for call in calls}
        assert read_calls(text, names).calls == tuple(calls)
        assert read_calls(text, ["h"]) == ((), text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=6), JSON_VALUES, max_size=3))
def test_what_a_form_writes_is_read(arguments: dict[str, Any]) -> None:
    """A written call is read as itself, with any arguments of JSON."""
    for form in FORMS.values():
        if form.key:
            reading = read_calls(form.written("f", arguments), form=form.name)
            assert reading == ((ReadCall("f", arguments),), "")


@given(st.text("ab_-.ß1", min_size=1, max_size=4) | st.sampled_from(["in", "True", "null", "_1"]))
def test_readable_names_are_read(name: str) -> None:
    """A name that is said to be readable is read as it is, of tools and of arguments."""
    reading = read_calls(f"[{name}({name}=1, b={{'{name}': true}})]", form="python")
    if is_readable_name(name) and name != "b":
        assert reading.calls == (ReadCall(name, {name: 1, "b": {name: True}}),)


def split(form: str, pieces: list[str]) -> tuple[list[str], tuple[ReadCall, ...]]:
    """What is shown of a reply that comes in pieces, and its calls."""
    splitter = CallSplitter(FORMS[form], ["f", "g", "mod.g", "brave_search"])
    shown = [splitter.feed(piece) for piece in pieces]
    return [*shown, splitter.finish()], splitter.calls


STREAMED = {
    "json": 'no call {"name": "f", "parameters": {}}',
    "json, a call": ' {"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
    "json, another": '{"name": "h", "parameters": {}}',
    "json, cut": '{"name": "f", "parameters": {"a',
    "json, marked": 'Wait. <|python_tag|>{"name": "g", "parameters": {}}',
    "tagged": 'So: <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    "tagged, none": "a <tool_ca b <tool_call",
    "tagged, wrong": "a <tool_call>x</tool_call> b",
    "mistral": '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]',
    "python": "[f(a=1), g()]",
    "python, none": "[1, 2]",
}


@given(st.sampled_from(sorted(STREAMED)), st.lists(st.integers(0, 60), max_size=8))
def test_a_stream_shows_what_the_whole_reply_shows(name: str, cuts: list[int]) -> None:
    """Text and calls do not depend on how the reply was cut, and no call is shown."""
    form, text = name.split(",")[0], STREAMED[name]
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    shown, calls = split(form, pieces)
    whole, expected = split(form, [text])
    assert ("".join(shown), calls) == ("".join(whole), expected)
    if calls:
        assert not any(character in "".join(shown) for character in '{["')
    else:
        assert "".join(shown) == text


def test_text_is_shown_as_it_comes() -> None:
    """Only what may begin a call is held back."""
    shown, _ = split("json", list("Hello"))
    assert shown == [*"Hello", ""]
    shown, _ = split("json", list('{"x"}'))
    assert shown == ["", "", '{"x', '"', "}", ""]
    shown, _ = split("tagged", ["a <", "b"])
    assert shown == ["a ", "<b", ""]


def test_nothing_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    """A call of a function inside arguments is not made."""
    text = "[f(a=print('no'))]"
    assert read_calls(text).text == text
    assert json.dumps(capsys.readouterr().out) == '""'


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.key])
@given(
    said=st.text("abc {}[]\"'", max_size=12),
    calls=st.lists(
        st.tuples(st.sampled_from("fg"), st.dictionaries(st.text(max_size=4), VALUES, max_size=3)),
        min_size=1,
        max_size=3,
    ),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_pieces_of_calls_make_the_calls(
    name: str, said: str, calls: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    """However a reply is cut, arguments in pieces are those that are read at its end."""
    form = FORMS[name]
    between = form.between + (form.mark + form.start if form.repeats_mark else "")
    written = [form.head(called) + json.dumps(given) + form.tail for called, given in calls]
    text = said + form.mark + form.start + between.join(written) + form.end
    splitter = CallSplitter(form, "fg")
    places = [0, *sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    pieces: list[CallPiece] = []
    for start, end in pairwise(places):
        splitter.feed(text[start:end])
        pieces += splitter.take_pieces()
    splitter.finish()
    assert [(call.name, call.arguments) for call in splitter.calls] == calls
    told: dict[int, list[CallPiece]] = {}
    for piece in pieces:
        told.setdefault(piece.index, []).append(piece)
    assert list(told) == list(range(len(calls)))
    for each, (called, wanted) in zip(told.values(), calls, strict=True):
        assert {piece.name for piece in each} == {called}
        assert json.loads("".join(piece.arguments for piece in each)) == wanted
        assert [piece.is_whole for piece in each] == [False] * (len(each) - 1) + [True]
    assert splitter.ids == [each[0].id for each in told.values()]
