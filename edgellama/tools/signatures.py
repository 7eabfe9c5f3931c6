"""What a Python function says about itself: its name, its purpose, its parameters.

``type_schemas`` makes the schemas of single types, ``tool`` the tool.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

from edgellama.constraints.guidance import install_way
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.tools.type_schemas import TypeSchemas

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def described(function: Callable[..., Any]) -> tuple[str, str, dict[str, Any]]:
    """Name, description and the JSON schema of the arguments.

    A parameter with a default may be left out; ``*args`` and ``**kwargs`` are. InvalidOptionError
    for a parameter without a type hint, or with one that no JSON can fill.
    """
    name = name_of(function)
    description, texts = _documentation(function)
    hints = hints_of(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    schemas = TypeSchemas()
    for parameter in _parameters(function):
        if parameter.kind is _POSITIONAL_ONLY:
            raise InvalidOptionError(
                f"the parameter {parameter.name} of {name} is positional only; allowed: ones that "
                "can be given by name"
            )
        if parameter.name not in hints:
            raise InvalidOptionError(
                f"the parameter {parameter.name} of {name} has no type hint; allowed: hints such "
                "as int, str, list[str] or Literal['a', 'b']"
            )
        has_default = parameter.default is not inspect.Parameter.empty
        schema = schemas.schema(
            hints[parameter.name],
            f"the parameter {parameter.name} of {name}",
            may_be_left_out=has_default and parameter.default is None,
        )
        if parameter.name in texts:
            schema["description"] = texts[parameter.name]
        properties[parameter.name] = schema
        if not has_default:
            required.append(parameter.name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    if schemas.definitions:
        parameters["$defs"] = schemas.definitions
    return name, description, parameters


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called; an object that can be called has the name of its class."""
    told = _described_function(function)
    return str(getattr(told, "__name__", type(told).__name__))


def _described_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose name, hints and docstring count: of a partial one, the inner one."""
    while isinstance(function, partial):
        function = function.func
    return function


def hints_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Type hints by parameter; InvalidOptionError if one names what there is not."""
    target: Any = _described_function(function)
    if isinstance(target, type):
        target = vars(target).get("__init__", target)
    elif not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return get_type_hints(inspect.unwrap(target), include_extras=True)
    except Exception as error:
        raise InvalidOptionError(
            f"the type hints of {name_of(function)} cannot be read: {error}"
        ) from error


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise InvalidOptionError(
            f"the tool {name_of(function)} has no signature ({error}); allowed: functions of Python"
        ) from None
    return [p for p in signature.parameters.values() if p.kind not in _COLLECTING]


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description in a docstring, and what it says of each parameter."""
    text = inspect.getdoc(_described_function(function)) or ""
    if not text:
        return "", {}
    try:
        from docstring_parser import parse
    except ImportError as error:
        raise EdgellamaError(
            f"docstrings are read by the package docstring_parser ({error})",
            way=install_way(),
        ) from None
    try:
        found = parse(text)
    except Exception:  # of whatever kind: a docstring is prose, and all of it describes the tool
        return text, {}
    parts = [part.strip() for part in (found.short_description, found.long_description) if part]
    texts = {
        param.arg_name: " ".join(param.description.split())
        for param in found.params
        if param.description
    }
    return "\n\n".join(parts), texts
