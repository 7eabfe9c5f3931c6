"""Reads the calls in a reply: pure functions from a text to its calls and the rest of the text.

Each function reads one form. Whatever is not well formed stays text; nothing raises an error, and
nothing is evaluated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from edgellama.quant.given_values import is_shallow
from edgellama.tools.python_literals import PythonCall, read_call, read_call_list

PYTHON_TAG, TOOL_CALLS = "<|python_tag|>", "[TOOL_CALLS]"
OPENING_TAG, CLOSING_TAG = "<tool_call>", "</tool_call>"
CODE_TOOL = "code_interpreter"
"""The built-in tool that code behind <|python_tag|> is for; its argument is ``code``."""
MAX_MARKS = 1000
_BUILT_IN = ".call"
_SPACE, _SEPARATOR = re.compile(r"\s*"), re.compile(r"[\s;,]*")
_MISTRAL_HEAD = re.compile(r"\s*([\w.-]{1,128})\[ARGS\]")
_NAME_KEYS, _ARGUMENT_KEYS = ("name", "function"), ("parameters", "arguments")


class ReadCall(NamedTuple):
    """A call as a reply has it; ``id`` where the model gives one."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


class Reading(NamedTuple):
    """The calls of a reply in their order, and its text without them."""

    calls: tuple[ReadCall, ...]
    text: str


Names: TypeAlias = "Collection[str] | None"
"""The tools that there are; None for whatever a reply calls."""


def read_json_calls(text: str, names: Names = None) -> Reading:
    """Llama 3.1 and 3.2: ``{"name": ..., "parameters": {...}}`` at the start, ``;`` between
    several, or a list of them; or what stands behind <|python_tag|>."""
    calls, end = _objects(text, 0, names)
    if calls:
        return Reading(tuple(calls), text[end:])
    before, tag, behind = text.partition(PYTHON_TAG)
    if not tag:
        return Reading((), text)
    calls, end = _objects(behind, 0, names)
    if not calls:
        built_in = _built_in(behind, names)
        if built_in is None:
            return Reading((), text)
        calls, end = built_in
    return Reading(tuple(calls), (before + behind[end:]).strip())


def read_tagged_calls(text: str, names: Names = None) -> Reading:
    """Hermes and many after it: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""
    return _marked(text, OPENING_TAG, CLOSING_TAG, lambda start: _objects(text, start, names))


def read_mistral_calls(text: str, names: Names = None) -> Reading:
    """Mistral: ``[TOOL_CALLS] [{"name": ..., "arguments": {...}}]``, or each as
    ``[TOOL_CALLS]name[ARGS]{...}``."""

    def read(start: int) -> tuple[list[ReadCall], int]:
        calls, end = _objects(text, start, names)
        head = _MISTRAL_HEAD.match(text, start)
        if calls or head is None:
            return calls, end
        arguments, end = _value(text, head.end())
        call = _checked(head[1], arguments, names)
        return ([], start) if call is None else ([call], end)

    return _marked(text, TOOL_CALLS, "", read)


def _marked(
    text: str, opening: str, closing: str, read: Callable[[int], tuple[list[ReadCall], int]]
) -> Reading:
    """The calls behind each mark; ``read`` gives those from a position on, and where they end."""
    calls: list[ReadCall] = []
    kept, position, num_marks = [], 0, 0
    while num_marks < MAX_MARKS and (start := text.find(opening, position)) >= 0:
        inside = start + len(opening)
        found, end = read(inside)
        num_marks += 1
        kept.append(text[position : start if found else inside])
        position = inside
        if found:
            calls += found
            behind = _end_of(_SPACE, text, end)
            position = behind + len(closing) if text.startswith(closing, behind) else end
    kept.append(text[position:])
    return Reading(tuple(calls), "".join(kept).strip() if calls else text)


def read_python_calls(text: str, names: Names = None) -> Reading:
    """Llama 3.2 and 4 where they are asked so: ``[f(a=1), g()]`` at the start."""
    behind = text.replace(PYTHON_TAG, "", 1) if text.lstrip().startswith(PYTHON_TAG) else text
    found = read_call_list(behind)
    calls = [] if found is None else [_of_python(call, names) for call in found[0]]
    known = [call for call in calls if call is not None]
    if found is None or len(known) < len(calls):
        return Reading((), text)
    return Reading(tuple(known), found[1].strip())


READERS: Mapping[str, Callable[[str, Names], Reading]] = MappingProxyType(
    {
        "tagged": read_tagged_calls,
        "mistral": read_mistral_calls,
        "json": read_json_calls,
        "python": read_python_calls,
    }
)
"""By the name of a form."""


def read_calls(text: str, names: Names = None, form: str | None = None) -> Reading:
    """The calls of a reply in a form, or in whichever form there are any.

    Arguments:
        text: The reply, with the marks of calls that are tokens of their own.
        names: The tools that there are; a call of another is text. None (the default) is any.
        form: One of READERS. None (the default) tries them all.

    Returns:
        The calls and the text besides.
    """
    readers = READERS.values() if form is None else (READERS[form],)
    readings = (read(text, names) for read in readers)
    return next((reading for reading in readings if reading.calls), Reading((), text))


def _objects(text: str, start: int, names: Names) -> tuple[list[ReadCall], int]:
    """The calls that stand at a position, as objects or lists of them, and where they end."""
    calls: list[ReadCall] = []
    end = start
    while True:
        value, behind = _value(text, _end_of(_SEPARATOR, text, end))
        items = value if isinstance(value, list) else [value]
        found = [_of_object(item, names) for item in items]
        known = [call for call in found if call is not None]
        if not known or len(known) < len(found):
            return calls, end
        calls += known
        end = behind


def _value(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at a position, and where it ends; None if there is none."""
    try:
        value, end = _DECODER.raw_decode(text, _end_of(_SPACE, text, start))
    except (ValueError, RecursionError):
        return None, start
    return (value, end) if is_shallow(value) else (None, start)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where what matches a pattern at a position ends; the position itself if nothing does."""
    found = pattern.match(text, start)
    return start if found is None else found.end()


def _finite(number: str) -> float:
    """A number that other programs can read; ValueError for "Infinity", and for 1e999."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no number of JSON")
    return value


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)


def _of_object(value: Any, names: Names) -> ReadCall | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = {**value["function"], "id": value.get("id")}
    name = next((value[key] for key in _NAME_KEYS if key in value), None)
    arguments = next((value[key] for key in _ARGUMENT_KEYS if key in value), None)
    call = _checked(name, arguments, names)
    given = value.get("id")
    return call._replace(id=given) if call and isinstance(given, str) and given else call


def _checked(name: Any, arguments: Any, names: Names) -> ReadCall | None:
    """A call, if the name is a tool's and the arguments are an object, perhaps as JSON text."""
    if isinstance(arguments, str):
        arguments = _value(arguments)[0]
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ReadCall(name, arguments) if names is None or name in names else None


def _of_python(call: PythonCall, names: Names) -> ReadCall | None:
    return _checked(call.name, call.arguments, names)


def _built_in(text: str, names: Names) -> tuple[list[ReadCall], int] | None:
    """``brave_search.call(query="...")``, or code for the interpreter, which takes all of it."""
    found = read_call(text.lstrip())
    if found is not None and found[0].name.endswith(_BUILT_IN):
        name = found[0].name.removesuffix(_BUILT_IN)
        call = _checked(name, found[0].arguments, names)
        return None if call is None else ([call], len(text) - len(found[1]))
    if not text.strip() or (names is not None and CODE_TOOL not in names):
        return None
    return [ReadCall(CODE_TOOL, {"code": text.strip()})], len(text)
