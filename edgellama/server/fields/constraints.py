"""The required form of a reply, as each protocol names it, as options of a text.

The library decides whether a schema can be kept to. If not, it raises an error before the first
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellama.quant.error_text import shown
from edgellama.server.errors import refused


def openai_format(given: object, param: str) -> dict[str, Any]:
    """``response_format`` of chats, and ``text.format`` of responses, whose schema lies flat."""
    if given is None or given == {}:
        return {}
    if not isinstance(given, Mapping):
        raise refused(param, f"{param} is {shown(given)}; allowed: an object with a type")
    kind = given.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        # Other servers take a schema beside this type.
        schema = given.get("schema")
        return {"json": True} if schema is None else {"schema": _schema(schema, f"{param}.schema")}
    if kind == "json_schema":
        inner = given.get("json_schema", given)
        schema = inner.get("schema") if isinstance(inner, dict) else None
        return {"schema": _schema(schema, f"{param}.json_schema.schema")}
    raise refused(param, f"{param}.type is {shown(kind)}; allowed: text, json_object, json_schema")


def ollama_format(given: object) -> dict[str, Any]:
    """``format``: "json", or a schema."""
    if given in (None, ""):
        return {}
    return {"json": True} if given == "json" else {"schema": _schema(given, "format")}


def anthropic_format(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """``output_config`` with its ``format``; how much a model is to think makes no reply here."""
    wanted = (given or {}).get("format")
    unknown = [
        name for name, value in (given or {}).items() if value and name not in ("format", "effort")
    ]
    if unknown:
        raise refused("output_config", f"output_config.{unknown[0]} is not supported here")
    if not wanted:
        return {}
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        raise refused("output_config", "output_config.format.type; allowed: json_schema")
    return {"schema": _schema(wanted.get("schema"), "output_config.format.schema")}


def _schema(value: object, param: str) -> Any:
    from edgellama.constraints.loosening import without_unknown_keywords

    if isinstance(value, dict):
        return without_unknown_keywords(value)
    raise refused(param, f"{param} is {shown(value)}; allowed: a JSON Schema, as an object")
