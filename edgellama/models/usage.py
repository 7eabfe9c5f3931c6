"""When a model of the cache was last opened: the time of an empty file beside it.

The system's own time of access is of no use: most systems update it rarely or never.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgellama.kernels_cpu.machine.user_cache import cache_folders

MARKER_SUFFIX = ".used"
FOLDERS = ("models", "converted")
"""Of models, within the cache folder."""


def note_use(path: Path) -> None:
    """Remember that the model at ``path`` is opened now, if it lies in the cache and can be."""
    roots = [root.absolute() for name in FOLDERS for root in cache_folders(name)]
    if any(path.absolute().is_relative_to(root) for root in roots):
        with contextlib.suppress(OSError):
            marker_path(path).touch()


def last_use(path: Path) -> float | None:
    """When the model at ``path`` was opened last, in seconds since 1970; None if it never was."""
    try:
        return marker_path(path).stat().st_mtime
    except OSError:
        return None


def marker_path(path: Path) -> Path:
    """The file whose time is that of the last use."""
    return path.with_name(path.name + MARKER_SUFFIX)
