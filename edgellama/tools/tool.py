"""A tool as plain data, made from a Python function or from what clients of OpenAI's API send.

``signatures`` makes a schema of a function's hints, ``presentation`` shows tools to a model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import MAX_DEPTH, is_shallow
from edgellama.quant.records import dataclass

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
NAME_FORM = "up to 128 letters, digits, _, - and ., the first one no - or ."

ID_LENGTH = 9
"""Characters of a call's id: Mistral's templates take no others."""
TOOL_FORM = (
    "functions with type hints, Tool objects, or mappings such as "
    '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
)
CALL_FORM = (
    'mappings such as {"id": "...", "type": "function", "function": {"name": "...", '
    '"arguments": {...}}}, or ToolCall objects'
)
_SCHEMA_KEYS = ("parameters", "input_schema", "inputSchema")
"""Where OpenAI's, Anthropic's and MCP's clients put the schema of the arguments."""
_FLAT_TYPES = (None, "function", "custom")
"""Types of tools that say everything at the top: OpenAI's newer ones, and Anthropic's."""


@dataclass(frozen=True)
class Tool:
    """A tool that a model may call.

    ``name`` is unique. ``description`` tells the model what the tool is for. ``parameters`` is a
    JSON schema of an object, the arguments. ``Conversation.run`` calls ``function``; it is None if
    you run the tool yourself. Without ``strict`` arguments follow what can be kept to of the
    schema, where a rule that cannot be is otherwise an error.

    Example:
        >>> from edgellama import Tool
        >>> def add(a: int, b: int = 0) -> int:
        ...     '''Add two numbers.
        ...
        ...     Args:
        ...         a: The first number.
        ...         b: The second number.
        ...     '''
        ...     return a + b
        >>> tool = Tool.of(add)
        >>> tool.name, tool.parameters["required"], tool.parameters["properties"]["a"]
        ('add', ['a'], {'type': 'integer', 'description': 'The first number.'})
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    function: Callable[..., Any] | None = field(default=None, compare=False)
    strict: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise InvalidOptionError(
                f"the name of a tool is {shown(self.name)}; allowed: {NAME_FORM}"
            )
        if not isinstance(self.description, str):
            raise InvalidOptionError(
                f"the description of the tool {self.name} is {shown(self.description)}; "
                "allowed: text"
            )
        if not isinstance(self.parameters, Mapping) or self.parameters.get("type") != "object":
            raise InvalidOptionError(
                f"the parameters of the tool {self.name} are {shown(self.parameters)}; allowed: a "
                'JSON schema of the type "object"'
            )
        if self.function is not None and not callable(self.function):
            raise InvalidOptionError(
                f"the function of the tool {self.name} is {shown(self.function)}; allowed: a "
                "function, or None"
            )

    @classmethod
    def of(cls, value: object) -> Tool:
        """The tool that a function, a mapping or a Tool stands for.

        Arguments:
            value: A function, described by its name, docstring (Google's, NumPy's or Sphinx's
                style) and type hints; a Tool; or a mapping as OpenAI's, Anthropic's or MCP's
                clients write it.

        Returns:
            The tool.

        Raises:
            InvalidOptionError: Anything else, a parameter without a hint, or one whose hint no
                JSON can fill.

        Example: see the class.
        """
        if isinstance(value, Tool):
            return value
        if isinstance(value, Mapping):
            return _of_mapping(value)
        if callable(value):
            from edgellama.tools.signatures import described

            name, description, parameters = described(value)
            return cls(name, description, parameters, value)
        raise InvalidOptionError(f"a tool is {shown(value)}; allowed: {TOOL_FORM}")

    def as_openai(self) -> dict[str, Any]:
        """The mapping that chat templates and clients of OpenAI's API take.

        Example:
            >>> from edgellama import Tool
            >>> Tool("now", "What time it is.").as_openai()["function"]["name"]
            'now'
        """
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.parameters),
            },
        }


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asks for: the tool's ``name`` and its ``arguments``.

    ``id`` goes into the message with the result: ``{"role": "tool", "tool_call_id": call.id,
    "content": "..."}``.

    Example:
        >>> from edgellama import ToolCall
        >>> ToolCall("add", {"a": 1}, id="a1b2c3d4e").as_openai()["function"]
        {'name': 'add', 'arguments': {'a': 1}}
    """

    name: str
    arguments: Mapping[str, Any]
    id: str = field(default_factory=lambda: os.urandom(ID_LENGTH).hex()[:ID_LENGTH])

    def as_openai(self) -> dict[str, Any]:
        """The call in a message's ``tool_calls``, as chat templates take it.

        Example: see the class.
        """
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": dict(self.arguments)},
        }


def checked_tools(values: object) -> tuple[Tool, ...]:
    """The tools, with names of their own; None is none. InvalidOptionError for anything else."""
    if values is None:
        return ()
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise InvalidOptionError(f"tools is {shown(values)}; allowed: a list of {TOOL_FORM}")
    tools = tuple(map(Tool.of, values))
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidOptionError(f"two tools are called {twice}; allowed: a name for each")
    return tools


def checked_calls(values: object) -> list[ToolCall]:
    """The calls in a message, as ToolCall objects or as clients of OpenAI's API write them.

    Arguments may be JSON text. InvalidOptionError for anything else.
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise InvalidOptionError(f"tool_calls is {shown(values)}; allowed: a list of {CALL_FORM}")
    return [_checked_call(value) for value in values]


def _checked_call(value: object) -> ToolCall:
    call = value if isinstance(value, ToolCall) else _given_call(value)
    if not is_shallow(call.arguments):
        raise InvalidOptionError(
            f"the arguments of a call of {call.name} are nested too deeply; allowed: {MAX_DEPTH} "
            "levels"
        )
    return call


def _given_call(value: object) -> ToolCall:
    function = value.get("function") if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and isinstance(function, Mapping):
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(arguments, str):
            arguments = _parsed(arguments)
        arguments = {} if arguments is None else arguments
        given = value.get("id")
        if isinstance(name, str) and isinstance(arguments, Mapping):
            if isinstance(given, str) and given:
                return ToolCall(name, dict(arguments), given)
            if given is None or given == "":
                return ToolCall(name, dict(arguments))
    raise InvalidOptionError(f"a call is {value!r:.200}; allowed: {CALL_FORM}")


def _parsed(text: str) -> object:
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text


def _of_mapping(given: Mapping[str, Any]) -> Tool:
    inner = given.get("function")
    if inner is None and given.get("type") in _FLAT_TYPES:
        inner = given
    if not isinstance(inner, Mapping):
        raise InvalidOptionError(f"a tool is {dict(given)!r:.200}; allowed: {TOOL_FORM}")
    schema = next((inner[key] for key in _SCHEMA_KEYS if inner.get(key) is not None), None)
    name, description = inner.get("name"), inner.get("description")
    checked: Any = {"name": name, "description": "" if description is None else description}
    if schema is not None:
        checked["parameters"] = {**schema, "type": "object"} if _is_open(schema) else schema
    return Tool(**checked, strict=inner.get("strict") is not False)


def _is_open(schema: object) -> bool:
    """Whether a schema allows objects among others, which arguments are."""
    types = schema.get("type", ["object"]) if isinstance(schema, Mapping) else None
    return isinstance(types, list) and "object" in types
