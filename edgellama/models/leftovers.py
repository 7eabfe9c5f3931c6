"""Removes the empty folders that a failed fetch or conversion leaves in the cache.

Files worth keeping, such as half a download, stay; ``cleaning`` finds those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path


def remove_empty(folder: Path, num_parents: int, but_for: Collection[str] = ()) -> None:
    """Remove ``folder`` and as many folders above it, up to the first that holds something.

    ``but_for`` names files in ``folder`` that count for nothing and go with it.
    """
    with contextlib.suppress(OSError):  # It is not empty, or in use on Windows.
        if all(path.name in but_for for path in folder.iterdir()):
            for path in list(folder.iterdir()):
                path.unlink()
        for path in (folder, *folder.parents[:num_parents]):
            path.rmdir()
