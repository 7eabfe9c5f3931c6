"""What may be shown on a terminal, and how progress looks there.

It knows which streams are terminals, NO_COLOR, and which characters of untrusted text are safe to
print. rich is imported only when a bar is drawn.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
_DIM, _RESET = "\x1b[2m", "\x1b[0m"


def is_interactive() -> bool:
    """Whether a person can be asked: they type on stdin and read stderr."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def may_colour(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal whose user wants colours (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def dim(text: str, stream: TextIO) -> str:
    """``text`` in the dim style if ``stream`` shows colours."""
    return f"{_DIM}{text}{_RESET}" if may_colour(stream) else text


class DimText:
    """Text that comes in pieces and is no part of what was asked for, in the dim style.

    It stands in a paragraph of its own, which ``end`` ends once; without colours a word tells what
    it is.
    """

    def __init__(self, stream: TextIO, word: str) -> None:
        self._stream = stream
        self._word = word
        self._is_open = False

    def add(self, text: str) -> None:
        """Write a piece at once."""
        word = "" if self._is_open or may_colour(self._stream) else f"{self._word}: "
        self._is_open = True
        self._stream.write(dim(word + printable(text), self._stream))
        self._stream.flush()

    def end(self) -> None:
        """End the paragraph, if it was begun."""
        if self._is_open:
            self._is_open = False
            self._stream.write("\n\n")
            self._stream.flush()


def thinking_stream() -> TextIO | None:
    """Where thinking is shown: on a terminal, never among what goes into a pipe or a file."""
    return next((stream for stream in (sys.stdout, sys.stderr) if stream.isatty()), None)


def printable(text: str) -> str:
    """``text`` without characters that could steer the terminal; line breaks and tabs stay."""
    return re.sub(_CONTROL, "\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def notice(text: str) -> None:
    """One line about the program's own doings, on stderr."""
    print(dim(f"edgellama: {text}", sys.stderr), file=sys.stderr, flush=True)


@contextmanager
def byte_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A live bar with the bytes a second on a terminal, one plain line elsewhere.

    Yields ``report(done, total)``; nothing is shown before the first report. A total of 0 is
    not known yet.
    """
    if not sys.stderr.isatty():
        with count_progress(title) as report:
            yield report
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _live_bar(title, DownloadColumn(), TransferSpeedColumn()) as report:
        yield report


@contextmanager
def step_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """The same for steps of other kinds."""
    if not sys.stderr.isatty():
        with count_progress(title) as report:
            yield report
        return
    from rich.progress import MofNCompleteColumn

    with _live_bar(title, MofNCompleteColumn()) as report:
        yield report


@contextmanager
def _live_bar(title: str, *columns: ProgressColumn) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    all_columns = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    bars = Progress(*all_columns, console=Console(stderr=True), transient=True)
    bar = bars.add_task(title, total=None)

    def report(done: int, total: int) -> None:
        bars.start()
        bars.update(bar, completed=done, total=total or None)

    try:
        yield report
    finally:
        bars.stop()


@contextmanager
def kernel_progress(*, of_usual: bool = False) -> Iterator[Callable[[int, int], None]]:
    """The line that is shown while kernels are compiled; nothing if none are.

    ``of_usual``: those of the usual models follow in the background.
    """
    with ExitStack() as shown:
        count: Callable[[int, int], None] | None = None

        def report(done: int, total: int) -> None:
            nonlocal count
            if count is None:
                is_first = of_usual and not _has_compiled()
                count = shown.enter_context(count_progress(FIRST if is_first else FURTHER))
            count(done, total)

        yield report


FIRST = "compiling this model's kernels for this CPU, only this once"
FURTHER = "compiling kernels that nothing has needed before"


def _has_compiled() -> bool:
    from edgellama.kernels_cpu.compiling.code_cache import choose_tier, has_compiled

    return has_compiled(choose_tier())


@contextmanager
def count_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """One line on stderr that counts steps; yields ``report(done, total)``.

    Nothing is shown before the first report, and the line is rewritten only on a terminal.
    """
    live = sys.stderr.isatty()
    is_shown = has_open_line = False

    def report(done: int, total: int) -> None:
        nonlocal is_shown, has_open_line
        if live:
            text = dim(f"edgellama: {title} {done}/{total}", sys.stderr)
            has_open_line = done < total
            print(f"\r{text}", end="" if has_open_line else "\n", file=sys.stderr, flush=True)
        elif not is_shown:
            notice(title)
        is_shown = True

    try:
        yield report
    finally:
        if has_open_line:
            print(file=sys.stderr, flush=True)
