"""Classes as schemas: what a schema says of a class, and how JSON text becomes an object of it.

msgspec knows its Structs, pydantic nearly all else, and msgspec again what pydantic does not or
where that is not installed. A class can read less than its schema tells, so that is narrowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, get_args, get_type_hints, is_typeddict

from edgellama.constraints.guidance import INSTALL
from edgellama.constraints.schema_places import subschemas
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ConstraintError
from edgellama.quant.ways import Way


class TypedSchema(NamedTuple):
    """A schema, and what reads text that follows it; ValueError for what the class refuses.

    ``narrow`` is what to generate by: objects have the fields that are declared and no others,
    unless the class says otherwise; numbers and durations are of sizes that Python's types hold.
    """

    schema: dict[str, Any]
    read: Callable[[str], object]

    @property
    def narrow(self) -> dict[str, Any]:
        """The schema of what is to be generated."""
        copy = deepcopy(self.schema)
        for _, inner in subschemas(copy):
            if "properties" in inner:
                inner.setdefault("additionalProperties", False)
            # A set, which the class makes of any list.
            inner.pop("uniqueItems", None)
            if inner.get("type") in ("integer", "number"):
                _limit(inner)
            if inner.get("contentEncoding") == "base64":
                inner.setdefault("pattern", BASE64)
            if inner.get("format") == "duration":
                del inner["format"]
                inner["pattern"] = SHORT_DURATION
        return copy


_FURTHER = re.compile(r"\. | requires either")
"""Where the first sentence of a library's reason ends, and its own advice begins."""
LARGEST_NUMBER = 10**18
BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_HOURS = r"(?:\d{1,4}H(?:\d{1,4}M)?(?:\d{1,5}S)?|\d{1,4}M(?:\d{1,5}S)?|\d{1,5}S)"
WHOLE_NUMBER = r"^(?:0|-?[1-9]\d{0,17})$"
SHORT_DURATION = rf"^P(?:\d{{1,5}}D(?:T{_HOURS})?|T{_HOURS})$"
"""Without months and years, which are of no certain length."""


def schema_of_type(kind: Any) -> TypedSchema:
    """The schema of a class, or of an annotation such as ``list[Person]``.

    ConstraintError for what neither library can describe.
    """
    is_struct = hasattr(kind, "__struct_fields__")
    attempts = (_msgspec, _pydantic) if is_struct else (_pydantic, _msgspec)
    missing, reasons = [], []
    for attempt in attempts:
        try:
            return attempt(kind)
        except ImportError as error:
            missing.append(str(error.name))
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
    if not reasons:
        raise ConstraintError(
            f"the schema is the class {_name(kind)}, which {' or '.join(missing)} describes; none "
            "is installed",
            way=Way(INSTALL, INSTALL),
        )
    causes = "; ".join(_FURTHER.split(" ".join(reason.split()), 1)[0][:200] for reason in reasons)
    raise ConstraintError(
        f"the schema is {_name(kind)}, which cannot be described ({causes}); allowed: a JSON "
        "Schema as a dict, JSON text, True, or a class whose fields have types: a dataclass, a "
        "TypedDict, a pydantic model or a msgspec Struct"
    )


def _limit(schema: dict[str, Any]) -> None:
    """Limits for a number that has none on a side, unless they would leave nothing."""
    lowest = schema.get("minimum", schema.get("exclusiveMinimum"))
    highest = schema.get("maximum", schema.get("exclusiveMaximum"))
    if lowest is None and (highest is None or highest > -LARGEST_NUMBER):
        schema["minimum"] = -LARGEST_NUMBER
    if highest is None and (lowest is None or lowest < LARGEST_NUMBER):
        schema["maximum"] = LARGEST_NUMBER


def read_json(text: str) -> object:
    """JSON text as Python has it; ValueError for what is too deep or too long for that."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply for Python") from None


def _pydantic(kind: Any) -> TypedSchema:
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import core_schema

    class Narrower(GenerateJsonSchema):
        """Says more of what pydantic can read than it says itself."""

        def field_title_should_be_set(self, schema: Any) -> bool:
            # A field's name again, in capitals.
            return False

        def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
            limits: Any = {
                name: schema.get(name) for name in ("multiple_of", "le", "ge", "lt", "gt")
            }
            given: Any = {name: float(x) for name, x in limits.items() if x is not None}
            # Not the text that it may be, too, which no pattern holds to digits.
            return self.float_schema(core_schema.float_schema(**given))

        def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
            described: dict[str, Any] = super().dict_schema(schema)
            if schema.get("keys_schema", {}).get("type") == "int":
                described["propertyNames"] = {"pattern": WHOLE_NUMBER}
            return described

    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    schema = adapter.json_schema(schema_generator=Narrower)
    return TypedSchema(schema, adapter.validate_json)


def _msgspec(kind: Any) -> TypedSchema:
    import msgspec

    schema = msgspec.json.schema(kind)
    orders = dict(_typed_dict_orders(kind, set()))
    for name, inner in schema.get("$defs", {}).items():
        # msgspec sorts the names of a TypedDict, but order is what a model goes by.
        if inner.get("properties", {}).keys() == set(orders.get(name, ())):
            inner["properties"] = {key: inner["properties"][key] for key in orders[name]}
    return TypedSchema(schema, partial(_read_by_msgspec, msgspec.json.Decoder(kind)))


def _typed_dict_orders(kind: Any, seen: set[int]) -> Iterator[tuple[str, list[str]]]:
    """Each TypedDict in an annotation by its name, with its own names in their order."""
    if id(kind) in seen:
        return
    seen.add(id(kind))
    hints = get_type_hints(kind) if isinstance(kind, type) and not get_args(kind) else {}
    if is_typeddict(kind):
        yield kind.__name__, list(hints)
    for inner in (*get_args(kind), *hints.values()):
        yield from _typed_dict_orders(inner, seen)


def _read_by_msgspec(decoder: Any, text: str) -> object:
    return decoder.decode(text)


def _name(kind: Any) -> str:
    return shown(getattr(kind, "__qualname__", None) or str(kind))
