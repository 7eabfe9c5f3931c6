"""The arguments of a call as Python writes them, ``a=1, b="x"``, as rules of a grammar.

Each argument keeps to its own schema, with its references. A schema's rules about all arguments
together are refused, because they could not be kept to, and so are names that could not be read
again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from edgellama.constraints.lark_texts import literal
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ConstraintError
from edgellama.tools.lark_rules import json_rule, moved_schema
from edgellama.tools.python_literals import is_readable_name

_WHOLE = "whole"
_PYTHON_WORDS = {"boolean": '"True" | "False"', "null": '"None"'}
_ONE_BY_ONE = {
    *("type", "properties", "required", "additionalProperties", "patternProperties"),
    *("$defs", "definitions", "$id", "$anchor"),
}
"""What a schema of arguments may say where each is written by itself."""


def python_arguments(rule: str, tool: str, schema: Mapping[str, Any]) -> list[str]:
    """``a=1, b="x"``: those that must be there, then any of the others, in the schema's order."""
    wanted = dict.fromkeys(schema.get("required", ()), schema.get("additionalProperties", {}))
    # What is required without being declared comes last.
    declared = {**schema["properties"], **wanted, **schema["properties"]}
    properties = {
        name: value for name, value in declared.items() if name in wanted or value is not False
    }
    _check(tool, schema, properties, len(wanted))
    required = [name for name in properties if name in wanted]
    others = [name for name in properties if name not in wanted]
    number = {name: f"{rule}_{index}" for index, name in enumerate(properties)}
    rules = [
        f"{number[name]}: {literal(name + '=')} {_python_value(value, schema)}"
        for name, value in properties.items()
    ]
    comma = literal(", ")
    first = f" {comma} ".join(number[name] for name in required)
    if first:
        choice = first + "".join(f" ({comma} {number[name]})?" for name in others)
        return [f"{rule}: {choice}", *rules]
    starts = [
        number[name] + "".join(f" ({comma} {number[other]})?" for other in others[index + 1 :])
        for index, name in enumerate(others)
    ]
    choices = " | ".join([*starts, '""'])
    return [f"{rule}: {choices}", *rules]


def separable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What can be kept to of a schema that need not be kept to as a whole."""
    kept = {name: value for name, value in schema.items() if name in _ONE_BY_ONE}
    properties = schema["properties"]
    kept["properties"] = {name: properties[name] for name in properties if is_readable_name(name)}
    return {**kept, "required": [*filter(is_readable_name, schema.get("required", ()))]}


def _check(
    tool: str, schema: Mapping[str, Any], properties: Collection[str], num_required: int
) -> None:
    """ConstraintError for names that could not be read, and for rules of all arguments together."""
    for name in properties:
        check_name(tool, name)
    beside = schema.keys() - _ONE_BY_ONE
    if schema.get("minProperties", 0) <= num_required:
        beside -= {"minProperties"}
    if schema.get("maxProperties", math.inf) >= len(properties):
        beside -= {"maxProperties"}
    if beside:
        raise ConstraintError(
            f"the tool {tool}: the model writes calls as Python, whose arguments cannot keep to "
            f"{min(beside)} of all of them; allowed: properties and required"
        )


def _python_value(value: Any, schema: Mapping[str, Any]) -> str:
    """The rule of an argument's value; references in it are to places of the whole ``schema``."""
    words = [text for kind, text in _PYTHON_WORDS.items() if value == {"type": kind}]
    if words:
        return f"({words[0]})"
    if '"$ref"' not in json.dumps(value):
        return json_rule(value)
    whole = {_WHOLE: moved_schema(schema, _WHOLE)}
    return json_rule({**moved_schema(value, _WHOLE), "$defs": whole})


def check_name(tool: str, name: str) -> None:
    """ConstraintError for a name that a call in Python cannot have."""
    if not is_readable_name(name):
        raise ConstraintError(
            f"the tool {tool}: the model writes calls as Python, which cannot have the name "
            f"{shown(name)}; allowed: letters, digits, _, - and ., beginning with a letter or _"
        )
