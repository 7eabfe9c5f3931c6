"""Rewrites a schema into keywords that llguidance takes, if others of them mean the same.

``json_schema`` checks whether a keyword may stand in a schema at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgellama.constraints.formats import BOUNDS, FREE, PATTERNS
from edgellama.constraints.keywords import ANNOTATIONS, COUNTS, EXTENSION
from edgellama.constraints.schema_places import JsonObject

_DECIMAL_PATTERN = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
"""What pydantic writes for a Decimal as a text."""
_DECIMAL_WITHOUT_LOOKAHEAD = r"^[+-]?(\d+\.?\d*|\.\d+)$"


def rewrite(schema: JsonObject, resolved: Callable[[Any], Any]) -> None:
    """Change a schema in place, without what says nothing; ``resolved`` follows references."""
    members = [resolved(member) for member in schema.get("oneOf", ())]
    # llguidance does not look behind references for what sets members apart.
    if members and "anyOf" not in schema and _are_told_apart(members):
        schema["anyOf"] = schema.pop("oneOf")
    for name in [name for name in schema if name in ANNOTATIONS or name.startswith(EXTENSION)]:
        del schema[name]
    for name in COUNTS:
        if name in schema:
            schema[name] = int(schema[name])
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if schema.pop("nullable", False) and "type" in schema:
        # nullable is OpenAPI's word for a type beside which null is allowed.
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = list(dict.fromkeys([*kinds, "null"]))
    if schema.get("pattern") == _DECIMAL_PATTERN:
        schema["pattern"] = _DECIMAL_WITHOUT_LOOKAHEAD
    _rewrite_format(schema)


def rewrite_names(schema: JsonObject, names: Any) -> bool:
    """Say ``propertyNames`` as properties that may be there, or as patterns of them.

    ``names`` is what it demands, references followed. False if there are no such words.
    """
    if isinstance(names, dict):
        names = {key: value for key, value in names.items() if key not in ANNOTATIONS}
        if names.get("type") == "string":
            del names["type"]
    if names is True or names == {}:
        del schema["propertyNames"]
        return True
    texts, pattern = _allowed_names(names), _pattern_of_names(names)
    if (texts is None and pattern is None) or schema.keys() & {"properties", "patternProperties"}:
        return False
    value = schema.pop("additionalProperties", {})
    del schema["propertyNames"]
    schema["additionalProperties"] = False
    if pattern is not None:
        schema["patternProperties"] = {pattern: value}
    else:
        schema["properties"] = dict.fromkeys(texts or (), value)
    return True


def _allowed_names(names: Any) -> list[str] | None:
    """The only names that a schema allows, if it lists them and says nothing else."""
    if names is False:
        return []
    if names.keys() == {"enum"}:
        return [name for name in names["enum"] if isinstance(name, str)]
    if names.keys() == {"const"} and isinstance(names["const"], str):
        return [names["const"]]
    return None


def _pattern_of_names(names: Any) -> str | None:
    """The pattern that all names match which a schema allows, if it says nothing else."""
    if names is False:
        return None
    if names.keys() == {"pattern"}:
        return str(names["pattern"])
    if names.keys() <= {"minLength", "maxLength"}:
        longest = int(names["maxLength"]) if "maxLength" in names else ""
        return rf"^[\s\S]{{{int(names.get('minLength', 0))},{longest}}}$"
    return None


def _are_told_apart(members: list[Any]) -> bool:
    """Whether no value can follow two of these schemas: by a required constant in each."""
    if not all(isinstance(member, dict) and member.get("type") == "object" for member in members):
        return False
    shared = set.intersection(*(set(member.get("required", ())) for member in members))
    return any(_are_different(members, name) for name in shared)


def _are_different(members: list[Any], name: str) -> bool:
    """Whether a property has other constants in each schema."""
    seen: set[str] = set()
    for member in members:
        declared = member.get("properties", {}).get(name)
        if not isinstance(declared, dict):
            return False
        values = declared.get("enum", [declared["const"]] if "const" in declared else [])
        if not values or not all(isinstance(value, str) and value not in seen for value in values):
            return False
        seen.update(values)
    return True


def _rewrite_format(schema: JsonObject) -> None:
    name = str(schema.get("format"))
    if name in PATTERNS:
        _demand(schema, {"pattern": PATTERNS[name]})
    elif name in BOUNDS:
        low, high = BOUNDS[name]
        _demand(schema, {"minimum": low, "maximum": high})
    if name in PATTERNS or name in BOUNDS or name in FREE:
        del schema["format"]


def _demand(schema: JsonObject, more: JsonObject) -> None:
    """Demand ``more`` beside what a schema demands already."""
    if schema.keys() & more.keys():
        schema["allOf"] = [*schema.get("allOf", []), more]
    else:
        schema.update(more)
