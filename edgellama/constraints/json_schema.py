"""Checks a JSON Schema keyword by keyword, and writes it as llguidance takes it.

Each keyword that applies is either kept to or refused, with its place; none is ignored. Schemas are
untrusted: their size and depth are limited, and nothing is ever fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgellama.constraints.keywords import (
    ANNOTATIONS,
    DIALECTS,
    EXTENSION,
    IDENTITY,
    KEYWORDS,
    OWN_EXTENSION,
)
from edgellama.constraints.schema_places import (
    MAX_DEPTH,
    JsonObject,
    Placed,
    References,
    applied,
)
from edgellama.constraints.schema_rewriting import rewrite, rewrite_names
from edgellama.quant.error_text import nearest, shown
from edgellama.quant.errors import ConstraintError

MAX_SCHEMA_CHARACTERS = 1 << 20
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
    copy = json_copy(schema)
    _Check(copy).run()
    return unicode_text(json.dumps(copy, ensure_ascii=False), "the schema")


def unicode_text(text: str, what: str) -> str:
    """The text, if it is one that UTF-8 can write; ConstraintError otherwise."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConstraintError(f"{what} has half a surrogate pair; allowed: Unicode text") from None
    return text


class _Check:
    """Walks through what applies, and writes anew what llguidance reads otherwise."""

    def __init__(self, root: JsonObject) -> None:
        self._pending: list[Placed] = [("#", root)]
        self._references = References(root)
        self._seen: set[int] = set()

    def run(self) -> None:
        """Check all that the root reaches."""
        while self._pending:
            place, schema = self._pending.pop()
            if isinstance(schema, dict) and id(schema) not in self._seen:
                self._seen.add(id(schema))
                self._check(place, schema)

    def _check(self, place: str, schema: JsonObject) -> None:
        for name, value in schema.items():
            _check_keyword(place, name, value)
        self._pending += applied(place, schema)
        if "$ref" in schema:
            self._pending += self._references.schemas_meant(schema["$ref"])
        _check_unique_names(place, schema)
        resolved = self._references.resolved
        if "propertyNames" in schema:
            names = resolved(schema["propertyNames"])
            if not rewrite_names(schema, names):
                raise _refusal(
                    f"{place}/propertyNames",
                    "other rules than these, or names beside properties, are not supported",
                    "enum, const, pattern, or minLength and maxLength",
                )
        rewrite(schema, resolved)


def json_copy(schema: Mapping[str, Any]) -> JsonObject:
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


def is_kept_to(name: str, value: Any) -> bool:
    """Whether a keyword with this value may stand in a schema, as far as that shows in it alone."""
    try:
        _check_keyword("#", name, value)
    except ConstraintError:
        return False
    return True


def _check_keyword(place: str, name: str, value: Any) -> None:
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
        meant = nearest(name, KEYWORDS)
        guess = "" if meant is None else f", did you mean {meant}?"
        raise _refusal(
            place, f"the keyword {shown(name)} is not supported{guess}", ", ".join(KEYWORDS)
        )
    if not keyword.is_right(value):
        written = json.dumps(value, ensure_ascii=False)
        raise _refusal(place, f"{name} is {shown(written)[1:-1]}", keyword.allowed)
    if name in ("const", "enum", "properties", "required"):
        _check_characters(place, name, value)


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


def _refusal(place: str, what: str, allowed: str) -> ConstraintError:
    return ConstraintError(f"the schema at {shown(place)[1:-1]}: {what}; allowed: {allowed}")
