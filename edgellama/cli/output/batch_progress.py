"""The progress of a batch on stderr: a live bar for people, one line at the end for everybody.

``batch_job`` knows what a text is, and when it counts as failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from edgellama.cli.output.terminal import notice


@dataclass
class Counts:
    """Lines of the input by what became of them, and tokens of all texts.

    ``first_error`` is the error that was written first, with its line's id. Lines are written as
    they are over, so an earlier line of the input may fail later.
    """

    num_before: int = 0
    num_repeated: int = 0
    num_texts: int = 0
    num_errors: int = 0
    num_tokens: int = 0
    first_error: str = ""

    @property
    def num_lines(self) -> int:
        """Lines that were read and are over."""
        return self.num_before + self.num_repeated + self.num_texts + self.num_errors


@contextmanager
def batch_progress(num_lines: int | None, target: str) -> Iterator[Callable[[Counts], None]]:
    """Yield what shows the counts; ``num_lines`` None is not known.

    At the end a line sums up, also where an interruption ends it, and says how to go on.
    """
    started = perf_counter()
    counts = Counts()

    def remember(now: Counts) -> None:
        nonlocal counts
        counts = now

    try:
        if sys.stderr.isatty():
            with _live_bar(num_lines, started) as show:

                def both(now: Counts) -> None:
                    remember(now)
                    show(now)

                yield both
        else:
            yield remember
    except BaseException:
        notice(f"stopped; {_summary(counts, perf_counter() - started)}")
        if target != "-":
            notice("the same command goes on from there")
        raise
    notice(_summary(counts, perf_counter() - started))


def _summary(counts: Counts, seconds: float) -> str:
    """Counts and speed for people."""
    texts = f"{counts.num_texts:,} text{'s' if counts.num_texts != 1 else ''}"
    speed = counts.num_tokens / seconds if seconds else 0.0
    line = f"{texts}, {counts.num_tokens:,} tokens at {speed:,.1f} tokens/s"
    if counts.num_before:
        line += f"; {counts.num_before:,} were done before"
    if counts.num_repeated:
        line += f"; left out, with the id of an earlier line: {counts.num_repeated:,}"
    if counts.num_errors:
        line += f"; {counts.num_errors:,} failed"
    return line


@contextmanager
def _live_bar(num_lines: int | None, started: float) -> Iterator[Callable[[Counts], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("texts"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:,.1f} tokens/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=num_lines, speed=0.0)

    def show(counts: Counts) -> None:
        speed = counts.num_tokens / max(perf_counter() - started, 1e-3)
        bar.update(task, completed=counts.num_lines, speed=speed)

    with bar:
        yield show
