"""Pieces of a grammar in llguidance's dialect of Lark that are values of a schema.

``call_grammar`` and ``python_arguments`` put them together.
"""

from __future__ import annotations

import json
from typing import Any

from edgellama.constraints.answer_form import JSON_STYLE


def json_rule(schema: Any) -> str:
    """What a value of JSON is that follows a schema, in our style."""
    styled = {**schema, "x-guidance": JSON_STYLE} if isinstance(schema, dict) else schema
    return f"%json {json.dumps(styled, ensure_ascii=False)}"


def moved_schema(schema: Any, name: str) -> Any:
    """A schema with its references as they must be where it is a definition of another one."""
    if isinstance(schema, list):
        return [moved_schema(item, name) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: moved_schema(value, name) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = f"#/$defs/{name}{reference[1:]}"
    return moved
