"""Reads calls written as Python, ``f(a=1)`` or ``[f(a=1), g()]``, without evaluating anything.

A model's text is untrusted. It is cut into plain pieces first, with limits on its length and depth,
because deep nesting can crash Python's own parser.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from edgellama.text.surrogates import well_formed

MAX_CHARACTERS = 1 << 16
MAX_DEPTH = 64
_OPEN, _CLOSE = "([{", ")]}"
_SPACE = r"[ \t\n\r\f\v]+"
_NAME = r"[^\W\d][\w-]*(?:\.[^\W\d][\w-]*){0,4}"
"""Of functions and arguments: Python's keywords are among them, and what schemas write with "-"."""
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?!\w)"
_STRING = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_PIECE = re.compile(f"{_SPACE}|{_STRING}|(?P<name>{_NAME})|{_NUMBER}|[][(){{}},=:]", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = frozenset("\\'\"abfnrtvxuUN\n01234567")
_CONSTANTS: Mapping[str, Any] = MappingProxyType({"true": True, "false": False, "null": None})
"""What JSON calls True, False and None; models mix both."""
_RESERVED = frozenset({"True", "False", "None", *_CONSTANTS})


class PythonCall(NamedTuple):
    """A call's function and its arguments by name."""

    name: str
    arguments: dict[str, Any]


def is_readable_name(name: str) -> bool:
    """Whether a function or an argument of this name is understood in a call."""
    return re.fullmatch(_NAME, name) is not None and name not in _RESERVED


def read_call_list(text: str) -> tuple[list[PythonCall], str] | None:
    """The calls of a list at the start of a text, and the text behind; None if there is none."""
    found = _first_expression(text)
    if found is None or not isinstance(found[0], ast.List) or not found[0].elts:
        return None
    calls = [_call(element) for element in found[0].elts]
    known = [call for call in calls if call is not None]
    return (known, found[1]) if len(known) == len(calls) else None


def read_call(text: str) -> tuple[PythonCall, str] | None:
    """A single call at the start of a text, and the text behind; None if there is none."""
    found = _first_expression(text)
    call = None if found is None else _call(found[0])
    return None if found is None or call is None else (call, found[1])


def _first_expression(text: str) -> tuple[ast.expr, str] | None:
    """What stands up to the bracket that closes the first one, and the text behind."""
    found = _up_to_closed_bracket(text)
    if found is None:
        return None
    pieces, end = found
    # Names that are no identifiers in Python get others while Python reads the call.
    names = {f"_{place}": piece for place, piece in enumerate(pieces) if is_readable_name(piece)}
    read = [
        f"_{place}" if f"_{place}" in names else _ESCAPE.sub(_known_escape, piece)
        for place, piece in enumerate(pieces)
    ]
    try:
        tree = ast.parse("".join(read).strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            node.arg = names.get(node.arg, node.arg)
    return tree.body, text[end:]


def _known_escape(found: re.Match[str]) -> str:
    """A backslash that escapes nothing stands for itself, of which Python would warn."""
    return found[0] if found[1] in _ESCAPED else f"\\{found[0]}"


def _up_to_closed_bracket(text: str) -> tuple[list[str], int] | None:
    """The pieces up to where the first bracket is closed, and where that is; None if it is not."""
    pieces: list[str] = []
    position, depth = 0, 0
    while position < min(len(text), MAX_CHARACTERS):
        found = _PIECE.match(text, position)
        if found is None:
            return None
        position, piece = found.end(), found[0]
        pieces.append(piece)
        if piece in _OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif piece in _CLOSE:
            depth -= 1
            if depth <= 0:
                return (pieces, position) if depth == 0 else None
    return None


def _call(node: ast.expr) -> PythonCall | None:
    """A call whose arguments are all literals and have names."""
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name):
        return None
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            return None
        try:
            arguments[keyword.arg] = _literal(keyword.value)
        except ValueError:
            return None
    return PythonCall(node.func.id, arguments)


def _literal(node: ast.expr) -> Any:
    """A value that JSON can write; ValueError for anything else."""
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, str):
            return well_formed(value)
        if value is None or (isinstance(value, (int, float)) and math.isfinite(value)):
            return value
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _literal(key) for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise ValueError("no literal")
