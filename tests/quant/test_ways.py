"""Advice fits the place where it is read: commands in a terminal, calls in a program."""

from __future__ import annotations

import ast
import functools
import logging
import pickle
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from places import REPOSITORY

from edgellama.cli.application import COMMANDS
from edgellama.cli.library_warnings import _Lines
from edgellama.quant import errors
from edgellama.quant.errors import ContextLengthError, EdgellamaError, ModelNotFoundError
from edgellama.quant.ways import Way, command_line

WAY = Way("call it(x=1)", "run: edgellama it --x 1")
# An option, or a command of ours.
TYPED = re.compile(rf"(?<![\w-])--[a-z][a-z-]+|\bedgellama ({'|'.join(COMMANDS)})\b")
CALLED = re.compile(r"\b[a-z_]+\((?:\)|[a-z_]+=)|\b[a-z]+_[a-z]+=")
# Those who build an application read of its commands wherever they are; they have no calls.
BUILDERS = re.compile(r"edgellama warmup --export .*")
# Options of programs that are not ours.
OTHERS = re.compile(
    "--(hf-path|mlx-path|dequantize|no-deps|dest|only-binary|disable|no-input|progress|upgrade)"
)


@functools.cache
def texts(path: Path) -> list[tuple[int, str, bool]]:
    """Line, text, and whether it is a Way's command, of every string with a call or a command.

    Docstrings are left out.
    """
    return list(read_texts(ast.parse(path.read_text("utf-8"))))


def read_texts(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """The same of a parsed file."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
            nodes.append(child)
    for node in nodes:
        if isinstance(node, ast.Constant) and is_telling(node.value):
            chain = [node]
            while hasattr(chain[-1], "parent"):
                chain.append(chain[-1].parent)
            if isinstance(chain[1], ast.Expr):
                continue
            is_command = any(
                isinstance(outer, ast.Call)
                and isinstance(outer.func, ast.Name)
                and (outer.func.id == "command_line" or inner in outer.args[1:])
                and outer.func.id in ("Way", "command_line")
                for inner, outer in pairwise(chain)
            )
            yield node.lineno, node.value, is_command


def is_telling(value: object) -> bool:
    """Whether it is a text that holds a call or a command."""
    return isinstance(value, str) and bool(TYPED.search(value) or CALLED.search(value))


@functools.cache
def sources() -> list[Path]:
    """Our Python files."""
    folders = ("quant", "convert", "kernels_cpu", "edgellama")
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def test_the_library_names_no_commands_where_calls_are_read() -> None:
    """Outside the commands, options and commands stand in a Way's terminal half alone."""
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}: {text!r}"
        for path in sources()
        if not {"cli", "server"} & set(path.relative_to(REPOSITORY).parts)
        for line, text, is_command in texts(path)
        if not is_command and TYPED.search(OTHERS.sub("", BUILDERS.sub("", text)))
    ]
    assert wrong == []


def test_commands_hold_no_calls() -> None:
    """What a terminal's user reads, in a Way or from the command line itself, is no Python."""
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}: {text!r}"
        for path in sources()
        for line, text, is_command in texts(path)
        if is_command and CALLED.search(text)
    ]
    assert wrong == []


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not Way]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_it_twice(kind: type[EdgellamaError]) -> None:
    """Each class has both texts, keeps them in another process, and where it is found again."""
    more = (5, 3) if kind is ContextLengthError else ()
    error = kind("it is wrong", *more, way=WAY)
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert str(same) == "it is wrong; call it(x=1)"
        assert same.in_terminal == "it is wrong; run: edgellama it --x 1"
        assert same.what == "it is wrong"
    plain = kind("it is wrong", *more, way=None)
    assert str(plain) == plain.in_terminal == "it is wrong"
    if not more:
        inside = error.within("a.gguf")
        assert type(inside) is kind
        assert inside.in_terminal == "a.gguf: it is wrong; run: edgellama it --x 1"
    assert isinstance(ModelNotFoundError("x", way=WAY), FileNotFoundError)


def test_log_records_say_it_as_their_reader_needs_it() -> None:
    """A way in a warning is a call for handlers of the library's users, a command on stderr."""
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s is old; %s", ("a", WAY), None)
    assert _Lines("%(message)s").format(record) == f"a is old; {WAY.command}"
    assert record.getMessage() == f"a is old; {WAY.python}"
    named = logging.LogRecord("x", logging.WARNING, "", 0, "no arguments", None, None)
    assert _Lines("%(message)s").format(named) == "no arguments"


def test_commands_can_be_pasted() -> None:
    """Paths with spaces and quotes are quoted as a shell needs it."""
    assert command_line("convert", Path("my model's.gguf")) == (
        "edgellama convert 'my model'\"'\"'s.gguf'"
    )
