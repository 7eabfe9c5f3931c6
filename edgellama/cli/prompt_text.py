"""Where a prompt comes from: an argument, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import click

STANDARD_INPUT = "-"


def read_prompt(text: str | None, file: str | None, from_stdin: bool) -> str:
    """The one prompt that the user gave; click.UsageError when it is none or several.

    A file and standard input are read as UTF-8, byte for byte: no line ending is changed, none
    is added or removed.
    """
    given = [text is not None, file is not None, from_stdin]
    if sum(given) != 1:
        problem = "several prompts" if any(given) else "no prompt"
        raise click.UsageError(f"{problem}; give one of: a text, -f FILE, or - for standard input")
    if text is not None:
        return text
    if from_stdin or file == STANDARD_INPUT:
        return _decoded(sys.stdin.buffer.read(), "standard input")
    assert file is not None
    return _decoded(Path(file).read_bytes(), file)


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{source} is not UTF-8: {error}") from error
