"""Where schemas stand inside a schema, and which schemas its references mean.

``keywords`` and ``json_schema`` know what a keyword means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias
from urllib.parse import unquote

from edgellama.constraints.keywords import ANNOTATIONS, DEFINITIONS, KEYWORDS
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ConstraintError

JsonObject: TypeAlias = dict[str, Any]
Placed: TypeAlias = tuple[str, Any]
"""A place such as "#/properties/a", and the schema there."""
MAX_DEPTH = 100
"""Of lists and objects in each other; llguidance reads 128."""


def subschemas(schema: JsonObject, place: str = "#") -> Iterator[tuple[str, JsonObject]]:
    """The schema and all in it by place, definitions too, inner ones first."""
    for name, value in schema.items():
        keyword = KEYWORDS.get(name)
        holds = "names" if name in DEFINITIONS else keyword.holds if keyword else ""
        for inner_place, inner in schemas_within(f"{place}/{_escaped(name)}", holds, value):
            if isinstance(inner, dict):
                yield from subschemas(inner, inner_place)
    yield place, schema


def schemas_within(place: str, holds: str, value: Any) -> list[Placed]:
    """The schemas that the value of a keyword holds; see ``Keyword``."""
    if holds == "schema":
        return [(place, value)]
    if holds == "list" and isinstance(value, list):
        return [(f"{place}/{number}", item) for number, item in enumerate(value)]
    if holds == "names" and isinstance(value, dict):
        return [(f"{place}/{_escaped(name)}", item) for name, item in value.items()]
    return []


def applied(place: str, schema: JsonObject) -> list[Placed]:
    """The schemas right inside a schema that apply to values, without definitions."""
    return [
        inner
        for name, value in schema.items()
        if name in KEYWORDS
        for inner in schemas_within(f"{place}/{_escaped(name)}", KEYWORDS[name].holds, value)
    ]


class References:
    """What ``$ref`` means in one schema.

    References by place are followed here. Those by ``$anchor`` or ``$id`` are llguidance's to
    follow; to us they may mean any definition.
    """

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._gave_all = False
        self._has_ids = any("$id" in schema for _, schema in subschemas(root))

    def target(self, reference: str) -> Any:
        """The schema that a reference means, None if it is not by place.

        ConstraintError for a place that there is not.
        """
        path, fragment = reference.partition("#")[::2]
        if path or (fragment and not fragment.startswith("/")) or self._has_ids:
            return None
        found: Any = self._root
        for part in unquote(fragment).split("/")[1:]:
            found = _step(found, part.replace("~1", "/").replace("~0", "~"))
        if found is None:
            raise ConstraintError(
                f"the schema refers to {shown(reference)}, which it does not have; allowed: places "
                "in the schema itself, such as #/$defs/name"
            )
        return found

    def schemas_meant(self, reference: str) -> list[Placed]:
        """All schemas that a reference may mean; all definitions are given once."""
        target = self.target(reference)
        if target is not None:
            return [(reference, target)]
        if self._gave_all:
            return []
        self._gave_all = True
        return list(subschemas(self._root))

    def resolved(self, schema: Any) -> Any:
        """What a schema that is a reference and nothing else means, else the schema itself."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or schema.keys() - ANNOTATIONS != {"$ref"}:
                break
            target = self.target(schema["$ref"])
            if target is None:
                break
            schema = target
        return schema


def _step(value: Any, part: str) -> Any:
    if isinstance(value, list):
        return value[int(part)] if part.isdecimal() and int(part) < len(value) else None
    return value.get(part) if isinstance(value, dict) else None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
