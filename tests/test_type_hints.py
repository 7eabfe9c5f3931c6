"""``typing.get_type_hints`` of every public name, which frameworks call that read signatures."""

import ast
import inspect
import typing
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, ForwardRef

import pytest

import edgellama
import edgellama.convert

PUBLIC = {name: getattr(edgellama, name) for name in edgellama.__all__} | {
    name: getattr(edgellama.convert, name) for name in edgellama.convert.__all__
}
SPECIAL = ("__init__", "__call__", "__enter__", "__iter__", "__next__", "__aenter__", "__anext__")


def functions_of(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Its public methods and the functions of its properties, inherited ones too."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        match member:
            case property():
                member = member.fget
            case cached_property():
                member = member.func
            case classmethod() | staticmethod():
                member = member.__func__
            case _ if name == "__init__":
                member = getattr(cls, name)  # Some are compiled when they are asked for.
        is_public = name in SPECIAL or not name.startswith("_")
        if is_public and inspect.isfunction(member) and member.__module__.startswith("edgellama"):
            yield name, member


def unresolved(hint: Any) -> bool:
    """Whether a part of a hint is still the name of a type."""
    if typing.get_origin(hint) is typing.Literal:
        return False
    return isinstance(hint, (str, ForwardRef)) or any(map(unresolved, _parts(hint)))


def _parts(hint: Any) -> Iterator[Any]:
    """What a hint is made of; a function's arguments are a list among them."""
    for part in typing.get_args(hint):
        yield from part if isinstance(part, list) else [part]


@pytest.mark.parametrize("name", PUBLIC)
def test_hints_are_types(name: str) -> None:
    """The hints of a public name and of its methods are found where they are written."""
    value = PUBLIC[name]
    things = {name: value}
    if inspect.isclass(value):
        things |= {f"{name}.{method}": function for method, function in functions_of(value)}
    for label, thing in things.items():
        hints = typing.get_type_hints(thing, include_extras=True)
        asked = inspect.signature(thing).parameters if inspect.isfunction(thing) else {}
        assert "return" in hints or not asked, label
        for argument, hint in hints.items():
            assert not unresolved(hint), f"{label}, {argument}: {hint}"


def test_types_that_are_imported_late_are_the_real_ones() -> None:
    """A hint of a type that a start does not import is the type itself."""
    hints = typing.get_type_hints(edgellama.Llama.generate_batch)
    assert hints["return"] is edgellama.Batch
    options = typing.get_type_hints(edgellama.Llama.embed, include_extras=True)["options"]
    assert typing.get_args(options) == (edgellama.EmbedOptions,)


def test_packages_that_annotations_name_are_imported_by_their_whole_name() -> None:
    """pyright, and so editors, see no type behind ``edgellama.convert.NAME`` otherwise."""
    for function in (edgellama.convert.convert, edgellama.convert.plan):
        source = ast.parse(inspect.getsource(inspect.getmodule(function)))  # type: ignore[arg-type]
        named = {
            ast.unparse(node.value)
            for node in ast.walk(source)
            if isinstance(node, ast.Attribute)
            and node.attr[0].isupper()
            and ast.unparse(node).startswith("edgellama.")
        }
        imports = [node for node in ast.walk(source) if isinstance(node, ast.Import)]
        assert named <= {alias.name for node in imports for alias in node.names}
