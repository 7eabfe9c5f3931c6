"""Frozen dataclasses that cost next to nothing to define.

``dataclasses`` compiles six methods for every frozen class while its module is imported, a fifth of
the time before a first token. Here, ``__init__`` is compiled only for classes that get more than a
few instances, or when somebody looks at it; the other methods are closures. All else is the same:
``fields``, ``replace`` and ``asdict`` accept these classes. Every field is an argument. A subclass
must be decorated here, too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import Field, FrozenInstanceError
from functools import partial
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, eq=True):
        """The same as ``dataclasses.dataclass``; a class that is not frozen is left to that."""
        if not frozen:
            return dataclasses.dataclass(cls, eq=eq)
        return lambda frozen_class: _frozen(frozen_class, eq)


class _Factory:
    """Stands for the default of an argument that a function makes; ``<factory>`` in signatures."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


FEW_INSTANCES = 12
"""A function takes 100 microseconds to compile, and saves some 8 of each instance."""


class _Init:
    """In the place of ``__init__`` for the first few instances."""

    def __init__(self, cls: type) -> None:
        self._class = cls
        self._fields: tuple[Field[Any], ...] = dataclasses.fields(cls)
        self._positional = [field.name for field in self._fields if not field.kw_only]
        self._num_made = 0

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is not None and self._num_made < FEW_INSTANCES:
            self._num_made += 1
            return partial(self._fill, instance)
        function = _compiled_init(self._class)
        setattr(self._class, "__init__", function)  # noqa: B010
        return function.__get__(instance, owner)

    def _fill(self, instance: Any, /, *values: Any, **named: Any) -> None:
        """Fill a record as the compiled function does.

        That function complains itself of arguments that do not fit.
        """
        given = dict(zip(self._positional, values, strict=False)) | named
        fits = len(given) == len(values) + len(named)
        for field in self._fields:
            make: Any = field.default_factory
            value = given.pop(field.name, field.default)
            if value is dataclasses.MISSING and make is not dataclasses.MISSING:
                value = make()
            fits = fits and value is not dataclasses.MISSING
            object.__setattr__(instance, field.name, value)
        if given or not fits:
            _compiled_init(self._class)(instance, *values, **named)
        elif hasattr(instance, "__post_init__"):
            instance.__post_init__()


def _frozen(cls: type, eq: bool) -> type:
    dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    fields: tuple[Field[Any], ...] = dataclasses.fields(cls)
    methods: dict[str, Any] = {
        "__init__": _Init(cls),
        "__repr__": _repr,
        "__setattr__": _refuse_setting,
        "__delattr__": _refuse_deleting,
    }
    if eq:
        methods["__eq__"], _ = _comparison([field.name for field in fields if field.compare])
        hashed = [f.name for f in fields if (f.compare if f.hash is None else f.hash)]
        _, methods["__hash__"] = _comparison(hashed)
    own = vars(cls)
    # Python itself puts a __hash__ of None beside an __eq__.
    is_ours = {name: own.get(name) is None for name in methods}
    for name, method in methods.items():
        if is_ours[name]:
            setattr(cls, name, method)
    return cls


def _comparison(names: list[str]) -> tuple[Callable[..., Any], Callable[[Any], int]]:
    """``__eq__`` and ``__hash__`` over the fields of these names."""
    values = attrgetter(*names) if names else _no_values

    def equals(self: Any, other: object) -> Any:
        return (
            values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented
        )

    def hash_of(self: Any) -> int:
        return hash(values(self))

    return equals, hash_of


def _no_values(_: object) -> tuple[()]:
    return ()


def _repr(self: Any) -> str:
    values = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(values)})"


def _refuse_setting(self: Any, name: str, value: object) -> None:
    if _is_fixed(self, name):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def _refuse_deleting(self: Any, name: str) -> None:
    if _is_fixed(self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


def _is_fixed(instance: Any, name: str) -> bool:
    """A plain class that derives from a frozen one may have attributes of its own."""
    fields = "__dataclass_fields__"
    return fields in vars(type(instance)) or name in getattr(instance, fields)


def _compiled_init(cls: type) -> FunctionType:
    """The ``__init__`` that ``dataclasses`` would have made."""
    fields: tuple[Field[Any], ...] = dataclasses.fields(cls)
    known: dict[str, Any] = {"_set": object.__setattr__, "_factory": _FACTORY}
    positional = ["self"]
    named: list[str] = []
    body: list[str] = []
    for field in fields:
        name, default, value = field.name, "", field.name
        if field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            default = "=_factory"
            value = f"_make_{name}() if {name} is _factory else {name}"
        elif field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            default = f"=_default_{name}"
        (named if field.kw_only else positional).append(name + default)
        body.append(f" _set(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    arguments = ", ".join([*positional, *(["*", *named] if named else [])])
    # Its globals are the module's, where ``typing.get_type_hints`` looks names of types up.
    lines = [f"def make({', '.join(known)}):", f" def __init__({arguments}):"]
    lines += [f" {line}" for line in [*body, " return None"]] + [" return __init__"]
    made: dict[str, Any] = {}
    exec("\n".join(lines), vars(sys.modules[cls.__module__]), made)
    function: FunctionType = made["make"](**known)
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    function.__module__ = cls.__module__
    function.__annotations__ = {field.name: field.type for field in fields} | {"return": None}
    return function
