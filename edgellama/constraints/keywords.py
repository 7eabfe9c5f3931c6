"""The keywords of JSON Schema that constraints keep to, and the values that each may have.

``schema_places`` knows where keywords stand, ``json_schema`` what they mean together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from edgellama.constraints.formats import FORMATS

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
DIALECTS = ("http://json-schema.org/draft", "https://json-schema.org/draft")
LARGEST_NUMBER = sys.float_info.max


class Keyword(NamedTuple):
    """Whether a value is right, what is allowed in words, and how it holds further schemas."""

    is_right: Callable[[Any], bool]
    allowed: str
    holds: str = ""


def _is_schema(value: Any) -> bool:
    return isinstance(value, (bool, dict))


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _are_named_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    # llguidance compares floats: a whole number that no float equals would become another one.
    return abs(value) <= LARGEST_NUMBER and value == float(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_types(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(name in TYPES for name in names)


_SCHEMA = Keyword(_is_schema, "a schema", "schema")
_SCHEMAS = Keyword(_are_schemas, "a list of schemas, not empty", "list")
_NAMED_SCHEMAS = Keyword(_are_named_schemas, "an object of schemas", "names")
_COUNT = Keyword(_is_count, "a whole number from 0")
_NUMBER = Keyword(_is_number, "a number that a 64-bit float holds exactly")

KEYWORDS: Mapping[str, Keyword] = MappingProxyType(
    {
        "type": Keyword(_are_types, f"one or several of {', '.join(TYPES)}"),
        "nullable": Keyword(lambda value: isinstance(value, bool), "true or false"),
        "const": Keyword(lambda value: True, "any value"),
        "enum": Keyword(
            lambda value: isinstance(value, list) and len(value) > 0, "a list, not empty"
        ),
        "anyOf": _SCHEMAS,
        "oneOf": _SCHEMAS,
        "allOf": _SCHEMAS,
        "$ref": Keyword(_is_text, "a text such as #/$defs/name"),
        "properties": _NAMED_SCHEMAS,
        "patternProperties": _NAMED_SCHEMAS,
        "additionalProperties": _SCHEMA,
        "propertyNames": _SCHEMA,
        "required": Keyword(_are_texts, "a list of names"),
        "minProperties": _COUNT,
        "maxProperties": _COUNT,
        "items": Keyword(_is_schema, "a schema; several go into prefixItems", "schema"),
        "prefixItems": _SCHEMAS,
        "minItems": _COUNT,
        "maxItems": _COUNT,
        "uniqueItems": Keyword(lambda value: value is False, "false"),
        "minLength": _COUNT,
        "maxLength": _COUNT,
        "pattern": Keyword(_is_text, "a regular expression"),
        "format": Keyword(lambda value: value in FORMATS, ", ".join(FORMATS)),
        "minimum": _NUMBER,
        "maximum": _NUMBER,
        "exclusiveMinimum": _NUMBER,
        "exclusiveMaximum": _NUMBER,
        "multipleOf": Keyword(lambda value: _is_number(value) and value > 0, "a number above 0"),
    }
)
COUNTS = tuple(name for name, keyword in KEYWORDS.items() if keyword is _COUNT)
DEFINITIONS = ("$defs", "definitions")
"""Schemas by name, of which those count that are referred to."""
UNSUPPORTED = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "additionalItems"),
    *("dependentRequired", "dependentSchemas", "dependencies", "contentSchema"),
    *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor"),
    *("$recursiveRef", "$recursiveAnchor", "$vocabulary"),
)
"""Keywords of JSON Schema, of any draft, that constraints cannot keep to."""
IDENTITY = ("$id", "$anchor", *DEFINITIONS)
ANNOTATIONS = (
    *("$schema", "$comment", "title", "description", "default", "example", "examples"),
    *("deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
    *("discriminator", "externalDocs"),
)
"""What says nothing about which values are valid."""
EXTENSION = "x-"
"""How annotations of other programs begin."""
OWN_EXTENSION = "x-guidance"
"""Options of llguidance, with which a schema could switch checks off."""
