"""A JSON Schema, checked keyword by keyword and written as llguidance takes it.

What applies somewhere is either kept to or refused, with its place; nothing is left out in
silence. Schemas are untrusted: size and depth are bounded, nothing is ever fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias
from urllib.parse import unquote

from edgellama.constraints.formats import BOUNDS, FREE, PATTERNS
from edgellama.constraints.keywords import (
    ANNOTATIONS,
    COUNTS,
    DEFINITIONS,
    DIALECTS,
    EXTENSION,
    IDENTITY,
    KEYWORDS,
    OWN_EXTENSION,
)
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ConstraintError

JsonObject: TypeAlias = dict[str, Any]
MAX_SCHEMA_CHARACTERS = 1 << 20
MAX_DEPTH = 100
"""Of lists and objects in each other; llguidance reads 128."""
SCHEMA_FORM = "a JSON Schema as a dict, JSON text, True, or a class such as a dataclass"


def parsed_schema(text: str) -> object:
    """JSON text as the value it is; ConstraintError for other text."""
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise ConstraintError(
            f"the schema has {len(text)} characters; allowed: {MAX_SCHEMA_CHARACTERS}"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(
            f"the schema is {shown(text)}, which is no JSON ({error}); allowed: {SCHEMA_FORM}"
        ) from None


def compiled_schema(schema: object) -> str:
    """The schema's text for llguidance; ConstraintError, with the place, for what it cannot do.

    ``schema``: an object as JSON has it, or a bool.
    """
    if schema is True:
        return "{}"
    if schema is False:
        raise ConstraintError("the schema is false, which no text follows; allowed: True for any")
    if not isinstance(schema, Mapping):
        raise ConstraintError(f"the schema is {shown(schema)}; allowed: {SCHEMA_FORM}")
    copy = _json_copy(schema)
    _Check(copy).run()
    return unicode_text(json.dumps(copy, ensure_ascii=False), "the schema")


def unicode_text(text: str, what: str) -> str:
    """The text, if it is one that UTF-8 can write; ConstraintError otherwise."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConstraintError(f"{what} has half a surrogate pair; allowed: Unicode text") from None
    return text


def subschemas(schema: JsonObject, place: str = "#") -> Iterator[tuple[str, JsonObject]]:
    """The schema and all in it by place, definitions too, inner ones first."""
    for name, value in schema.items():
        keyword = KEYWORDS.get(name)
        holds = "names" if name in DEFINITIONS else keyword.holds if keyword else ""
        for key, inner in _held(holds, value):
            if isinstance(inner, dict):
                yield from subschemas(inner, "/".join([place, _escaped(name), *key]))
    yield place, schema


class _Check:
    """Walks through what applies, and writes anew what llguidance reads otherwise."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._seen: set[int] = set()
        self._all_definitions = False
        self._has_ids = any("$id" in schema for _, schema in subschemas(root))

    def run(self) -> None:
        """Check all that the root reaches."""
        pending: list[tuple[str, Any]] = [("#", self._root)]
        while pending:
            place, schema = pending.pop()
            if not isinstance(schema, dict) or id(schema) in self._seen:
                continue
            self._seen.add(id(schema))
            for name, value in schema.items():
                self._check_keyword(place, schema, name, value)
                inner_place = f"{place}/{_escaped(name)}"
                holds = KEYWORDS[name].holds if name in KEYWORDS else ""
                pending += [("/".join([inner_place, *k]), v) for k, v in _held(holds, value)]
            if "$ref" in schema:
                pending += self._referred(schema["$ref"])
            _check_unique_names(place, schema)
            if "propertyNames" in schema:
                self._rewrite_names(place, schema)
            if "oneOf" in schema and "anyOf" not in schema:
                members = [self._resolved(member) for member in schema["oneOf"]]
                # llguidance does not look behind references for what sets members apart.
                if are_told_apart(members):
                    schema["anyOf"] = schema.pop("oneOf")
            _rewrite(schema)

    def _check_keyword(self, place: str, schema: JsonObject, name: str, value: Any) -> None:
        if name in IDENTITY:
            return
        if name == "$schema":
            if not str(value).startswith(DIALECTS):
                raise _refusal(place, f"$schema is {shown(value)}", "a draft of json-schema.org")
            return
        if name in ANNOTATIONS or (name.startswith(EXTENSION) and name != OWN_EXTENSION):
            return
        keyword = KEYWORDS.get(name)
        if keyword is None:
            close = get_close_matches(name[:80], KEYWORDS, n=1)
            guess = f", did you mean {close[0]}?" if close else ""
            raise _refusal(
                place, f"the keyword {shown(name)} is not supported{guess}", ", ".join(KEYWORDS)
            )
        if not keyword.is_right(value):
            written = json.dumps(value, ensure_ascii=False)
            raise _refusal(place, f"{name} is {shown(written)[1:-1]}", keyword.allowed)
        if name in ("const", "enum", "properties", "required"):
            _check_characters(place, name, value)

    def _rewrite_names(self, place: str, schema: JsonObject) -> None:
        """Say ``propertyNames`` as properties that may be there, or as patterns of them."""
        names = self._resolved(schema.pop("propertyNames"))
        if isinstance(names, dict):
            names = {key: value for key, value in names.items() if key not in ANNOTATIONS}
        if names is True or names in ({}, {"type": "string"}):
            return
        pattern = _pattern_of_names(names)
        allowed = [] if names is False else names.get("enum", [names.get("const")])
        is_alone = not schema.keys() & {"properties", "patternProperties"}
        if not is_alone or (pattern is None and names is not False and allowed == [None]):
            raise _refusal(
                f"{place}/propertyNames",
                "names by these rules, or beside properties, are not supported",
                "enum, const, pattern, minLength or maxLength alone",
            )
        value = schema.pop("additionalProperties", {})
        schema["additionalProperties"] = False
        if pattern is not None:
            schema["patternProperties"] = {pattern: value}
        else:
            texts = [name for name in allowed if isinstance(name, str)]
            schema["properties"] = dict.fromkeys(texts, value)

    def _resolved(self, schema: Any) -> Any:
        """What a schema that is a reference alone refers to, else the schema itself."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or schema.keys() - ANNOTATIONS != {"$ref"}:
                break
            found = self._referred(schema["$ref"])
            if len(found) != 1:
                break
            schema = found[0][1]
        return schema

    def _referred(self, reference: str) -> list[tuple[str, Any]]:
        """What a reference reaches; where that is not plain, all definitions."""
        path, fragment = reference.partition("#")[::2]
        if not path and (not fragment or fragment.startswith("/")) and not self._has_ids:
            found = self._root
            for part in unquote(fragment).split("/")[1:]:
                found = _step(found, part.replace("~1", "/").replace("~0", "~"))
            if found is None:
                raise ConstraintError(
                    f"the schema refers to {shown(reference)}, which it does not have; allowed: "
                    "places in the schema itself, such as #/$defs/name"
                )
            return [(reference, found)]
        if self._all_definitions:
            return []
        self._all_definitions = True
        return [(place, schema) for place, schema in subschemas(self._root) if "/" in place]


def _json_copy(schema: Mapping[str, Any]) -> JsonObject:
    """A deep copy of what JSON can hold; ConstraintError for anything else, too large or deep."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(
            f"the schema cannot be written as JSON ({error}); allowed: {SCHEMA_FORM}"
        ) from None
    copy = parsed_schema(text)
    assert isinstance(copy, dict)
    level: list[Any] = [copy]
    for _ in range(MAX_DEPTH):
        level = [
            item for value in level for item in _items(value) if isinstance(item, (dict, list))
        ]
        if not level:
            return copy
    raise ConstraintError(f"the schema is nested too deeply; allowed: {MAX_DEPTH} levels")


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def _held(holds: str, value: Any) -> list[tuple[list[str], Any]]:
    """The schemas that a keyword's value holds, each with the rest of its place."""
    if holds == "schema":
        return [([], value)]
    if holds == "list" and isinstance(value, list):
        return [([str(number)], item) for number, item in enumerate(value)]
    if holds == "names" and isinstance(value, dict):
        return [([_escaped(name)], item) for name, item in value.items()]
    return []


def _step(value: Any, part: str) -> Any:
    if isinstance(value, list):
        return value[int(part)] if part.isdecimal() and int(part) < len(value) else None
    return value.get(part) if isinstance(value, dict) else None


def _check_characters(place: str, name: str, value: Any) -> None:
    """Characters that JSON writes as \\u and a number alone are never generated."""
    text = json.dumps([*value] if name == "properties" else value, ensure_ascii=False)
    if "\\u00" in text.replace("\\\\", "") or "\x7f" in text:
        raise _refusal(place, f"{name} has a control character", "those that \\n and the like name")


def _check_unique_names(place: str, schema: JsonObject) -> None:
    """More names than are required may be one name twice, which then counts once."""
    wanted = schema.get("minProperties", 0)
    largest = len(set(schema.get("required", ()))) + 1
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if wanted > largest and not is_closed:
        raise _refusal(
            place,
            f"minProperties is {wanted}, with {largest - 1} names required",
            f"up to {largest}, because further names may repeat each other",
        )


def _pattern_of_names(names: Any) -> str | None:
    """The pattern that names by a schema match, if it says nothing else of them."""
    if not isinstance(names, dict) or names.get("type", "string") != "string":
        return None
    rules = names.keys() - {"type"}
    if rules == {"pattern"}:
        return str(names["pattern"])
    if rules and rules <= {"minLength", "maxLength"}:
        longest = int(names["maxLength"]) if "maxLength" in names else ""
        return rf"^[\s\S]{{{int(names.get('minLength', 0))},{longest}}}$"
    return None


def are_told_apart(members: list[Any]) -> bool:
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


def _rewrite(schema: JsonObject) -> None:
    """Say what a schema says in the words that llguidance takes, without what says nothing."""
    for name in [name for name in schema if name in ANNOTATIONS or name.startswith(EXTENSION)]:
        del schema[name]
    for name in COUNTS:
        if name in schema:
            schema[name] = int(schema[name])
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if schema.get("pattern") == _DECIMAL_PATTERN:
        schema["pattern"] = _DECIMAL_WITHOUT_LOOKAHEAD
    format_name = str(schema.get("format"))
    if format_name in PATTERNS:
        _add(schema, {"pattern": PATTERNS[format_name]})
    elif format_name in BOUNDS:
        low, high = BOUNDS[format_name]
        _add(schema, {"minimum": low, "maximum": high})
    if format_name in PATTERNS or format_name in BOUNDS or format_name in FREE:
        del schema["format"]


_DECIMAL_PATTERN = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
"""What pydantic writes for a Decimal as a text."""
_DECIMAL_WITHOUT_LOOKAHEAD = r"^[+-]?(\d+\.?\d*|\.\d+)$"


def _add(schema: JsonObject, more: JsonObject) -> None:
    """Demand ``more`` beside what a schema demands already."""
    if schema.keys() & more.keys():
        schema["allOf"] = [*schema.get("allOf", []), more]
    else:
        schema.update(more)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refusal(place: str, what: str, allowed: str) -> ConstraintError:
    return ConstraintError(f"the schema at {shown(place)[1:-1]}: {what}; allowed: {allowed}")
