"""The progress bar of a conversion: stage, tensor, megabytes, speed and time left.

It is shown on terminals alone. ``convert.pipeline`` reports the progress.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.convert.pipeline import ConversionProgress

NAME_WIDTH = 26


@contextmanager
def conversion_progress() -> Iterator[Callable[[ConversionProgress], None] | None]:
    """Yield what ``convert`` takes as ``progress``; nothing is shown before the first report."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        *(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
        console=Console(stderr=True),
        transient=True,
    )
    stages: dict[str, int] = {}

    def report(now: ConversionProgress) -> None:
        bars.start()
        if now.stage not in stages:
            for task in bars.tasks:
                bars.update(task.id, visible=False)
            stages[now.stage] = bars.add_task(now.stage)
        bars.update(
            bars.tasks[-1].id,
            description=f"{now.stage} {now.tensor:<{NAME_WIDTH}}",
            completed=now.bytes_done,
            total=now.bytes_total,
        )

    try:
        yield report
    finally:
        bars.stop()
