"""Tools that Llama 3.1 and later know by name, and call as ``brave_search.call(query="...")``.

A template shows them if its variable ``builtin_tools`` names them. The user's functions of these
names run them, if there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgellama.tools.reading import CODE_TOOL
from edgellama.tools.tool import Tool

VARIABLE = "builtin_tools"


def built_in_tools(variables: Mapping[str, object], tools: Sequence[Tool]) -> list[Tool]:
    """The tools that a template's variables name, those among ``tools`` with their functions."""
    given = variables.get(VARIABLE)
    names = given if isinstance(given, (list, tuple)) else ()
    own = {tool.name: tool for tool in tools}
    return [own.get(name, _tool(name)) for name in dict.fromkeys(names) if isinstance(name, str)]


def _tool(name: str) -> Tool:
    argument = "code" if name == CODE_TOOL else "query"
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {argument: {"type": "string"}},
        "required": [argument],
    }
    return Tool(name, "", schema)
