"""Classes as schemas: what a schema says of a class, and how JSON text becomes an object of it.

pydantic knows its own classes, msgspec all others, and pydantic those that msgspec does not.
Both are the user's: what is not installed is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, get_args, get_type_hints, is_typeddict

from edgellama.constraints.guidance import INSTALL
from edgellama.constraints.json_schema import subschemas
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ConstraintError
from edgellama.quant.ways import Way


class TypedSchema(NamedTuple):
    """A schema, and what reads text that follows it; ValueError for what the class refuses."""

    schema: dict[str, Any]
    read: Callable[[str], object]


def schema_of_type(kind: Any) -> TypedSchema:
    """The schema of a class, or of an annotation such as ``list[Person]``.

    Objects have the fields that are declared and no others, unless the class says otherwise.
    ConstraintError for what neither library can describe.
    """
    attempts = (_pydantic,) if _is_pydantic(kind) else (_msgspec, _pydantic)
    missing, reasons = [], []
    for attempt in attempts:
        try:
            schema, read = attempt(kind)
            break
        except ImportError as error:
            missing.append(str(error.name))
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
    else:
        if not reasons:
            raise ConstraintError(
                f"the schema is the class {_name(kind)}, which {' or '.join(missing)} describes; "
                "none is installed",
                way=Way(INSTALL, INSTALL),
            )
        raise ConstraintError(
            f"the schema is {_name(kind)}, which cannot be described: "
            f"{'; '.join(' '.join(reason.split())[:300] for reason in reasons)}"
        )
    for _, inner in subschemas(schema):
        if "properties" in inner:
            inner.setdefault("additionalProperties", False)
        # A set, which the class makes of any list.
        inner.pop("uniqueItems", None)
    return TypedSchema(schema, read)


def read_json(text: str) -> object:
    """JSON text as Python has it; ValueError for what is too deep or too long for that."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply for Python") from None


def _is_pydantic(kind: Any) -> bool:
    return any(
        hasattr(kind, name)
        for name in ("model_json_schema", "validate_json", "__pydantic_validator__")
    )


def _pydantic(kind: Any) -> TypedSchema:
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import core_schema

    class DecimalsAsNumbers(GenerateJsonSchema):
        """Without the text that a Decimal may be, too, which no pattern holds to digits."""

        def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
            limits: Any = {
                name: schema.get(name) for name in ("multiple_of", "le", "ge", "lt", "gt")
            }
            given: Any = {name: float(x) for name, x in limits.items() if x is not None}
            return self.float_schema(core_schema.float_schema(**given))

    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    schema = adapter.json_schema(schema_generator=DecimalsAsNumbers)
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
