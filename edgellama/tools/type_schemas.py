"""Type hints as JSON schemas, and JSON values as a hint asks for them.

Plain hints are handled here. Classes with fields go to the libraries that know them, through
``constraints.answer_types``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from importlib import import_module
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from edgellama.quant.errors import EdgellamaError, InvalidOptionError

Schema: TypeAlias = dict[str, Any]
_PLAIN: Mapping[Any, Schema] = types.MappingProxyType(
    {
        str: {"type": "string"},
        int: {"type": "integer"},
        float: {"type": "number"},
        bool: {"type": "boolean"},
        type(None): {"type": "null"},
        None: {"type": "null"},
        list: {"type": "array"},
        Sequence: {"type": "array"},
        tuple: {"type": "array"},
        set: {"type": "array"},
        dict: {"type": "object"},
        Mapping: {"type": "object"},
        Any: {},
        object: {},
    }
)
_UNIONS = (Union, types.UnionType)
_BUILT_LISTS = (set, frozenset, tuple)
_LISTS = (list, Sequence, set, frozenset)
_OBJECTS = (dict, Mapping)
_SCALARS: Mapping[type, str] = types.MappingProxyType(
    {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
)


class TypeSchemas:
    """Makes the schemas of one function's hints; ``definitions`` is what they refer to, by name."""

    def __init__(self) -> None:
        self.definitions: Schema = {}

    def schema(self, hint: Any, what: str, *, may_be_left_out: bool = False) -> Schema:
        """The schema of values that a hint allows; InvalidOptionError names ``what`` has it.

        ``may_be_left_out``: None stands for a value that is left out, so it need not be written.
        """
        hint, origin, arguments = _taken_apart(hint)
        if origin is Annotated:
            texts = [text for text in arguments[1:] if isinstance(text, str)]
            if len(texts) < len(arguments[1:]):
                schema = self._class(hint, what)
            else:
                schema = self.schema(arguments[0], what, may_be_left_out=may_be_left_out)
            return schema | {"description": texts[0]} if texts else schema
        if origin in _UNIONS:
            return self._union(arguments, what, may_be_left_out)
        if origin is Literal:
            return _choice(arguments, what)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _choice([member.value for member in hint], what)
        if origin is None and _is_plain(hint):
            return dict(_PLAIN[hint])
        if origin in _LISTS:
            return {"type": "array", "items": self.schema(arguments[0], what)}
        if origin in _OBJECTS and arguments[0] is str:
            return {"type": "object", "additionalProperties": self.schema(arguments[1], what)}
        if origin is tuple:
            return self._tuple(arguments, what)
        return self._class(hint, what)

    def _union(self, arguments: Sequence[Any], what: str, may_be_left_out: bool) -> Schema:
        nothing = type(None)
        kept = [a for a in arguments if a is not nothing or not may_be_left_out]
        schemas = [self.schema(argument, what) for argument in kept]
        if len(schemas) == 1:
            return schemas[0]
        if all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
            return {"type": list(dict.fromkeys(schema["type"] for schema in schemas))}
        return {"anyOf": schemas}

    def _tuple(self, arguments: Sequence[Any], what: str) -> Schema:
        if len(arguments) == 2 and arguments[1] is ...:
            return {"type": "array", "items": self.schema(arguments[0], what)}
        items = [self.schema(argument, what) for argument in arguments]
        count = len(items)
        return {"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}

    def _class(self, hint: Any, what: str) -> Schema:
        from edgellama.constraints.answer_types import schema_of_type

        try:
            if _is_msgspec(hint):
                schema: Schema = import_module("msgspec").json.schema(hint)
            else:
                schema = schema_of_type(hint).narrow
        except (EdgellamaError, TypeError) as error:
            raise InvalidOptionError(
                f"{what} is {hint!r:.80}, which no JSON fills ({error}); allowed: hints such as "
                "int, str, list[str], Literal['a', 'b'], dataclasses and pydantic models"
            ) from None
        for name, definition in schema.pop("$defs", {}).items():
            if self.definitions.setdefault(name, definition) != definition:
                raise InvalidOptionError(
                    f"{what} refers to a second class {name}; allowed: one of each name"
                )
        return schema


def _is_msgspec(hint: Any) -> bool:
    """Whether a hint has annotations that msgspec alone knows."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return any(type(mark).__module__.split(".")[0] == "msgspec" for mark in marks)


def reader_of(hint: Any) -> Callable[[Any], Any] | None:
    """What makes an argument of JSON the object that a hint asks for; None if it is one already."""
    hint, origin, arguments = _taken_apart(hint)
    if origin is Annotated:
        return reader_of(arguments[0])
    if origin in _UNIONS:
        others = [other for other in arguments if other is not type(None)]
        if len(others) == 1:
            return _optional(reader_of(others[0]))
        return _class_reader(hint) if any(map(reader_of, others)) else None
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if origin in _LISTS:
        return _list_reader(origin, reader_of(arguments[0]))
    if origin in _OBJECTS and arguments[0] is str:
        return _object_reader(reader_of(arguments[1]))
    if origin is tuple and arguments[1:] != (...,):
        return _tuple_reader([reader_of(argument) for argument in arguments])
    if origin is tuple:
        return _list_reader(tuple, reader_of(arguments[0]))
    if origin is Literal or _is_plain(hint):
        return hint if hint in _BUILT_LISTS else None
    return _class_reader(hint)


def _taken_apart(hint: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """A hint with its origin and arguments; a bare ``typing.List`` counts as ``list``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is not None and not arguments and not isinstance(hint, types.GenericAlias):
        return origin, None, ()
    return hint, origin, arguments


def _optional(read: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    return read and (lambda value: None if value is None else read(value))


def _list_reader(kind: Any, read: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    make = kind if kind in _BUILT_LISTS else None
    if read is None:
        return make
    return lambda values: (make or list)(map(read, values))


def _object_reader(read: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    return read and (lambda values: {name: read(value) for name, value in values.items()})


def _tuple_reader(readers: Sequence[Callable[[Any], Any] | None]) -> Callable[[Any], Any]:
    return lambda values: tuple(
        value if read is None else read(value) for read, value in zip(readers, values, strict=True)
    )


def _is_plain(hint: Any) -> bool:
    try:
        return hint in _PLAIN
    except TypeError:  # not hashable, such as some annotations
        return False


def _choice(values: Sequence[Any], what: str) -> Schema:
    wrong = [value for value in values if type(value) not in _SCALARS]
    if wrong or not values:
        problem = f"{wrong[0]!r:.80}" if wrong else "no value at all"
        raise InvalidOptionError(f"{what} may be {problem}; allowed: what JSON can write")
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _class_reader(hint: Any) -> Callable[[Any], Any]:
    import json

    from edgellama.constraints.answer_types import schema_of_type

    read = schema_of_type(hint).read
    return lambda value: read(json.dumps(value))
