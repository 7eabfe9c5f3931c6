"""Reads a prompt from an argument, a file, or standard input.

The commands know what becomes of the text.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

STANDARD_INPUT = "-"


def read_prompt(text: str | None, file: str | None, from_stdin: bool) -> str:
    """The one prompt that the user gave; click.UsageError when it is none or several.

    Without any, it is what comes through a pipe. A file and standard input are read as UTF-8,
    byte for byte: no line ending is changed, none is added or removed.
    """
    given = [text is not None, file is not None, from_stdin]
    if sum(given) > 1:
        raise _usage_error("several prompts")
    if text is not None:
        return text
    if file is not None and file != STANDARD_INPUT:
        return _decoded(Path(file).read_bytes(), file)
    if not any(given) and not comes_through_pipe():
        raise _usage_error("no prompt")
    content = sys.stdin.buffer.read()
    if not any(given) and not content:
        raise _usage_error("no prompt")
    return _decoded(content, "standard input")


def comes_through_pipe() -> bool:
    """Whether standard input is a pipe or a file, and not a person's terminal or nothing."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or none at all
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def lines_of(source: BinaryIO) -> Iterator[str]:
    """Lines of standard input as they come, in UTF-8 whatever the terminal speaks."""
    for number, line in enumerate(source, start=1):
        yield _decoded(line, f"standard input, line {number}")


def _usage_error(problem: str) -> click.UsageError:
    return click.UsageError(
        f"{problem}; give one of: a text, -f FILE, or standard input through a pipe or with -"
    )


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{source} is not UTF-8 text: see byte {error.start}") from error
