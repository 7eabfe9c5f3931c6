"""Removes from schemas that programs have written what no grammar can keep to.

Agents offer all tools of all servers that they know. One schema with a rule that no grammar can
express would refuse all their requests. ``json_schema`` knows which rules can be kept to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from edgellama.constraints.deep_stack import call_deeply
from edgellama.constraints.guidance import llguidance
from edgellama.constraints.json_schema import compiled_schema, is_kept_to, json_copy
from edgellama.constraints.keywords import (
    ANNOTATIONS,
    DEFINITIONS,
    EXTENSION,
    IDENTITY,
    KEYWORDS,
    UNSUPPORTED,
)
from edgellama.constraints.schema_places import JsonObject, subschemas
from edgellama.quant.errors import ConstraintError

logger = logging.getLogger(__name__)


_OF_THE_WHOLE = (
    *("minProperties", "maxProperties", "propertyNames", "oneOf", "anyOf", "allOf"),
    *("patternProperties", "additionalProperties", "required"),
)
"""Rules of an object beside its properties, in the order in which they are given up."""
_KNOWN = frozenset({*KEYWORDS, *UNSUPPORTED, *ANNOTATIONS, *IDENTITY})


def without_unknown_keywords(schema: Mapping[str, Any]) -> JsonObject:
    """The schema without keywords that JSON Schema does not have, which say nothing by its rules.

    A person's schema with such keywords is refused, since they may be misspelt; programs put words
    of their own there. ConstraintError for what is no JSON, too large or nested too deeply.
    """
    copy = json_copy(schema)
    for _, inner in list(subschemas(copy)):
        for name in [n for n in inner if n not in _KNOWN and not n.startswith(EXTENSION)]:
            del inner[name]
    return copy


def loosened(schema: Mapping[str, Any]) -> JsonObject:
    """The schema of an object without the rules that cannot be kept to.

    A property that cannot be kept to without them may have any value. Where that is not enough the
    rules of the whole object go, one after the other, and at last any object follows.
    ConstraintError for what is no JSON, too large or nested too deeply.
    """
    copy = json_copy(schema)
    if _holds(copy):
        return copy
    for place, inner in list(subschemas(copy)):
        for name in [name for name, value in inner.items() if not _holds_alone(name, value)]:
            logger.debug("not kept to at %s: %s", place, name)
            del inner[name]
    if _holds(copy):
        return copy
    definitions = {name: copy[name] for name in DEFINITIONS if name in copy}
    for _, inner in list(subschemas(copy)):
        if "oneOf" in inner and "anyOf" not in inner and not _holds({**inner, **definitions}):
            inner["anyOf"] = inner.pop("oneOf")  # Choices that overlap cannot exclude each other.
    properties = copy.get("properties", {})
    for name, value in properties.items():
        alone = {"type": "object", "properties": {name: value}, "required": [name]}
        if not _holds({**alone, **definitions}):
            properties[name] = {}
    for name in ("", *_OF_THE_WHOLE):
        copy.pop(name, None)
        if _holds(copy):
            return copy
    return {"type": "object", "additionalProperties": True}


def _holds_alone(name: str, value: Any) -> bool:
    """Whether a keyword is one that is kept to, and has a value that can be."""
    return is_kept_to(name, value) and (name != "pattern" or _holds({"pattern": value}))


def _holds(schema: JsonObject) -> bool:
    """Whether llguidance takes what the schema becomes."""
    try:
        text = compiled_schema(schema)
    except ConstraintError:
        return False
    grammar = json.dumps({"grammars": [{"json_schema": json.loads(text)}]})
    validate = llguidance().LLMatcher.validate_grammar
    return not call_deeply(lambda: validate(grammar), grammar.count("{"))
