"""Reads the texts of a command, one a line: from arguments, a file, or a pipe.

The commands know what is computed of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from edgellama.cli.inputs.prompt_text import comes_through_pipe
from edgellama.cli.options.completion import PATH

Command = TypeVar("Command", bound=Callable[..., Any])
LINES_SUFFIX = ".jsonl"
STANDARD_STREAM = "-"


def lines_option(what: str) -> Callable[[Command], Command]:
    """Add the file whose lines are texts."""
    return click.option(
        *("-f", "--file"),
        type=PATH,
        metavar="FILE",
        help=f'Read a {what} from each line, or from its "text" if FILE is .jsonl (- is stdin).',
    )


class TextLines:
    """The texts of one run: where they come from, and what those that were read are known by."""

    def __init__(self, texts: Sequence[str], file: str | None, what: str = "text") -> None:
        if texts and file is not None:
            raise click.UsageError(f"{what}s and a file; give one of them")
        if not texts and file is None and not comes_through_pipe():
            raise click.UsageError(f"no {what}s; give some, -f FILE, or lines through a pipe")
        self._texts = texts
        self._file = None if file in (None, STANDARD_STREAM) else Path(str(file))
        self._ids: dict[int, object] = {}
        self.total = len(texts)
        if self._file is not None and self._file.is_file():
            with self._file.open("rb") as opened:
                self.total = sum(bool(line.strip()) for line in opened)

    def read(self) -> Iterator[str]:
        """Each text in turn."""
        if self._texts:
            yield from self._texts
            return
        with ExitStack() as opened:
            source: BinaryIO = sys.stdin.buffer
            if self._file is not None:
                source = opened.enter_context(self._file.open("rb"))
            numbered = ((n, line) for n, line in enumerate(source, start=1) if line.strip())
            for index, (number, line) in enumerate(numbered):
                text, self._ids[index] = self._text_and_id(line, number, index)
                yield text

    def id_of(self, index: int) -> object:
        """What a text's line of the output is known by; asked once for each."""
        return self._ids.pop(index, index)

    def _text_and_id(self, line: bytes, number: int, index: int) -> tuple[str, object]:
        name = "standard input" if self._file is None else str(self._file)
        must_be_object = self._file is not None and self._file.suffix == LINES_SUFFIX
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise click.ClickException(
                f"{name}, line {number} is not UTF-8 text: see byte {error.start}"
            ) from error
        content: object = None
        if must_be_object or text.startswith("{"):
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                content = None
        if isinstance(content, dict) and isinstance(content.get("text"), str):
            return content["text"], content.get("id", index)
        if must_be_object:
            raise click.ClickException(
                f'{name}, line {number} is no JSON object with "text": {text[:80]!r}'
            )
        return text, index
