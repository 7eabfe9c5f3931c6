"""Staging folders for downloads, and the progress of a downloader that is not ours.

pip and the hub client report progress in ways of their own, which change. Counting the bytes that
they have written so far works for both. The caller draws the progress.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgellama.kernels_cpu.machine.user_cache import free_space
from edgellama.quant.errors import DownloadError

STAGING_PREFIX = ".partial-"
ABANDONED_AFTER_SECONDS = 24 * 3600
POLL_SECONDS = 0.1

Progress = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes expected (0 while unknown)."""
Cancelled = Callable[[], bool]
"""Says whether the model is not wanted any more; asked several times a second."""


def check_wanted(name: object, cancelled: Cancelled | None) -> None:
    """DownloadError once nobody wants the model ``name`` any more."""
    if cancelled is not None and cancelled():
        raise DownloadError(f"the download of {name} was cancelled")


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder in ``parent`` that is gone afterwards, whatever happens inside.

    Folders that a killed process left behind a day ago or more are removed too.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_disk_space(folder: Path, num_bytes: int) -> None:
    """DownloadError unless ``folder``'s disk has room for so many bytes more."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < num_bytes:
        raise DownloadError(
            f"{folder} has {free_bytes / 1e6:.0f} MB free and {num_bytes / 1e6:.0f} MB are needed",
            way=free_space(),
        )


@contextmanager
def watch_growth(folder: Path, total_bytes: int, progress: Progress | None) -> Iterator[None]:
    """Call ``progress(bytes so far, total_bytes)`` while the files under ``folder`` grow.

    Counts from the size at entry and never runs backwards. The calls come from another thread.
    """
    if progress is None:
        yield
        return
    finished = threading.Event()
    watcher = threading.Thread(
        target=_report_growth, args=(folder, total_bytes, progress, finished), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def _report_growth(
    folder: Path, total_bytes: int, progress: Callable[[int, int], None], finished: threading.Event
) -> None:
    start_bytes = _folder_bytes(folder)
    most_bytes = 0
    progress(0, total_bytes)
    while not finished.wait(POLL_SECONDS):
        most_bytes = max(most_bytes, _folder_bytes(folder) - start_bytes)
        progress(min(most_bytes, total_bytes), total_bytes)


def _folder_bytes(folder: Path) -> int:
    num_bytes = 0
    for parent, _, names in os.walk(folder):  # Says nothing of a folder that goes meanwhile.
        for name in names:
            with suppress(OSError):
                num_bytes += os.stat(os.path.join(parent, name)).st_size
    return num_bytes


def _remove_abandoned(parent: Path) -> None:
    oldest = time.time() - ABANDONED_AFTER_SECONDS
    for folder in parent.glob(f"{STAGING_PREFIX}*"):
        try:
            abandoned = folder.stat().st_mtime < oldest
        except OSError:
            continue
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)
