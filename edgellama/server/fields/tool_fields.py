"""Tools as each protocol names and chooses them, and the calls that a model makes of them.

This module only translates; the library checks the tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgellama.quant.error_text import shown
from edgellama.server.errors import refused

if TYPE_CHECKING:
    from edgellama.generation.results import Chunk
    from edgellama.tools.call_pieces import CallPiece
    from edgellama.tools.tool import ToolCall

MAX_TOOLS = 1024
"""Eight times as many as OpenAI takes; each is shown in the prompt and is a part of the grammar."""
CHOICES = ("auto", "none", "required")
OFFERED_ELSEWHERE = frozenset(
    {
        *("web_search", "web_search_preview", "image_generation", "local_shell", "custom"),
        *("namespace", "tool_search"),
    }
)
"""Tools beside functions that agents offer to every model in a response. A model may leave an
offer alone, so they are left out; a request that insists on one is refused."""
ANTHROPIC_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def openai_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: object, parallel: bool | None
) -> dict[str, Any]:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls`` of chats."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise refused("tool_choice", "tool_choice is given; allowed: with tools alone")
        return {}
    _check_number(tools)
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(choice, tools)
    options: dict[str, Any] = {"tools": [_as_strict_as_asked(tool) for tool in tools]}
    if choice is not None:
        options["tool_choice"] = _chosen(choice, tools)
    if parallel is not None:
        options["parallel_tool_calls"] = parallel
    return options


def response_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: object, parallel: bool | None
) -> dict[str, Any]:
    """The same of responses, without what is offered to other models."""
    ours = [tool for tool in tools or () if str(tool.get("type")) not in OFFERED_ELSEWHERE]
    return openai_tools(ours, choice, parallel)


def anthropic_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: Mapping[str, Any] | None
) -> dict[str, Any]:
    """``tools`` and ``tool_choice`` of messages."""
    if not tools:
        return {}
    _check_number(tools)
    kinds = {str(tool.get("type") or "custom") for tool in tools} - {"custom"}
    if kinds:
        raise refused("tools", f"a tool has the type {shown(min(kinds))}; allowed: custom")
    options: dict[str, Any] = {
        "tools": [
            _as_strict_as_asked({key: tool[key] for key in tool if key in _ANTHROPIC_KEYS})
            for tool in tools
        ]
    }
    if choice:
        kind = choice.get("type")
        chosen = choice.get("name") if kind == "tool" else ANTHROPIC_CHOICES.get(str(kind))
        if not isinstance(chosen, str):
            allowed = ", ".join((*ANTHROPIC_CHOICES, "tool with a name"))
            raise refused("tool_choice", f"tool_choice.type is {shown(kind)}; allowed: {allowed}")
        options["tool_choice"] = chosen
        if choice.get("disable_parallel_tool_use"):
            options["parallel_tool_calls"] = False
    return options


def _check_number(tools: Sequence[object]) -> None:
    if len(tools) > MAX_TOOLS:
        raise refused("tools", f"tools are {len(tools)}; allowed: up to {MAX_TOOLS}")


_ANTHROPIC_KEYS = ("name", "description", "input_schema", "strict")


def _as_strict_as_asked(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tool with ``strict`` where the library looks for it: false unless it is said."""
    inner = tool.get("function")
    if isinstance(inner, Mapping):
        return {**tool, "function": _as_strict_as_asked(inner)}
    return {**tool, "strict": tool.get("strict") is True}


def _allowed(
    choice: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[Mapping[str, Any]], object]:
    """``allowed_tools``: those of the tools that may be called, and whether one must be."""
    inner = choice.get("allowed_tools", choice)
    given = inner.get("tools") if isinstance(inner, Mapping) else None
    names = {_name(each) for each in given} if isinstance(given, list) else set()
    known = {_name(tool) for tool in tools}
    if not names or not names <= known:
        allowed = ", ".join(sorted(str(name) for name in known))
        raise refused("tool_choice", f"tool_choice.allowed_tools.tools; allowed: some of {allowed}")
    return [tool for tool in tools if _name(tool) in names], inner.get("mode", "auto")


def _name(tool: object) -> object:
    """The name of a tool, whose function stands in it or is it."""
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else None


def _chosen(choice: object, tools: Sequence[Mapping[str, Any]]) -> str:
    """A choice as the library takes it: a word, or the name of one of the tools."""
    if isinstance(choice, str) and choice in CHOICES:
        return choice
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        inner = choice.get("function", choice)
        name = _name(inner)
        if name is not None and any(_name(tool) == name for tool in tools):
            return str(name)
    allowed = ", ".join(CHOICES)
    raise refused(
        "tool_choice",
        f"tool_choice is {shown(choice) if isinstance(choice, str) else 'of no tool'}; "
        f'allowed: {allowed}, or {{"type": "function", "function": {{"name": ...}}}}',
    )


class ToldCalls:
    """Which calls of a text a stream has told in pieces, while they were written."""

    def __init__(self) -> None:
        self._is_whole: dict[int, bool] = {}

    def begins(self, piece: CallPiece) -> bool:
        """Whether a piece is the first one of its call; it is told now."""
        is_new = piece.index not in self._is_whole
        self._is_whole[piece.index] = piece.is_whole
        return is_new

    def text_of(self, chunk: Chunk) -> str:
        """What a chunk shows: a call that was cut is text at the end, but it has been told."""
        is_told = chunk.token is None and not all(self._is_whole.values())
        return "" if is_told else chunk.text

    def others(self, calls: Sequence[ToolCall]) -> list[tuple[int, ToolCall]]:
        """The calls of a whole text that were not told, with their numbers."""
        return [(index, call) for index, call in enumerate(calls) if index not in self._is_whole]


def openai_piece(piece: CallPiece, is_first: bool) -> dict[str, Any]:
    """A piece of a call in a stream: id and name once, since clients join what is repeated."""
    head = {"id": piece.id, "type": "function"} if is_first else {}
    name = {"name": piece.name} if is_first else {}
    return {"index": piece.index, **head, "function": {**name, "arguments": piece.arguments}}


def openai_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls in a message, arguments as JSON text."""
    return [openai_call(call) for call in calls]


def openai_call(call: ToolCall) -> dict[str, Any]:
    """A whole call in OpenAI's shape."""
    function = {"name": call.name, "arguments": arguments_text(call)}
    return {"id": call.id, "type": "function", "function": function}


def ollama_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls in a message, arguments as objects."""
    return [
        {"function": {"index": index, "name": call.name, "arguments": dict(call.arguments)}}
        for index, call in enumerate(calls)
    ]


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as JSON text."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)
