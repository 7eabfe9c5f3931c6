"""Runs the function of a call: arguments as its hints ask for them, the result as text.

If a function raises an error, its words are the result, so that the model can try another way.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgellama.quant.errors import InvalidOptionError
from edgellama.tools.signatures import hints_of
from edgellama.tools.tool import Tool, ToolCall
from edgellama.tools.type_schemas import reader_of


def runnable(tools: Sequence[Tool], *, may_await: bool) -> Mapping[str, Tool]:
    """The tools by name; InvalidOptionError for one without a function that may be run."""
    without = next((tool.name for tool in tools if tool.function is None), None)
    if without is not None:
        raise InvalidOptionError(
            f"the tool {without} has no function to run; allowed: functions, or Tool objects with "
            "a function"
        )
    if not tools:
        raise InvalidOptionError("there are no tools to run; allowed: tools with functions")
    awaited = next((tool.name for tool in tools if _is_asynchronous(tool.function)), None)
    if awaited is not None and not may_await:
        raise InvalidOptionError(f"the tool {awaited} is asynchronous; allowed: with run_async")
    return {tool.name: tool for tool in tools}


def _is_asynchronous(function: object) -> bool:
    """Whether it is awaited: an asynchronous function, or an object whose call is one."""
    call = getattr(function, "__call__", None)  # noqa: B004  it is the method that is looked at
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def call_function(tools: Mapping[str, Tool], call: ToolCall) -> Any:
    """What the function of a call returns, which may be awaitable; raises what it raises."""
    function = tools[call.name].function if call.name in tools else None
    if function is None:
        raise LookupError(f"no function runs {call.name}")
    hints = hints_of(function)
    arguments = dict(call.arguments)
    for name, value in arguments.items():
        read = reader_of(hints[name]) if name in hints else None
        if read is not None:
            arguments[name] = read(value)
    return function(**arguments)


def result_text(value: object) -> str:
    """What a function returned, as the model sees it: text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=_as_json)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def error_text(error: Exception) -> str:
    """What a function raised, as the model sees it."""
    text = str(error)
    return f"Error: {type(error).__name__}" + (f": {text}" if text else "")


def run_call(tools: Mapping[str, Tool], call: ToolCall) -> str:
    """The result of a call as text, or what went wrong."""
    try:
        return result_text(call_function(tools, call))
    except Exception as error:
        return error_text(error)


async def run_call_async(tools: Mapping[str, Tool], call: ToolCall) -> str:
    """The same, awaiting functions that are asynchronous."""
    try:
        value = call_function(tools, call)
        return result_text(await value if inspect.isawaitable(value) else value)
    except Exception as error:
        return error_text(error)


def _as_json(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else str(value)
