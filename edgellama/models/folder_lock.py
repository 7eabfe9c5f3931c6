"""Lets one process at a time work in a folder of the cache; its lock ends with the process.

The callers know what they make there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "lock"
"""Of the file in the folder that is locked; it stays there."""
RETRY_SECONDS = 0.2

logger = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path, doing: str, check: Callable[[], None] | None = None) -> Iterator[None]:
    """Wait until no other process works in ``folder``, which is made if it is not there.

    ``doing`` says what another process does there, for a message to the waiting user. ``check``
    is called repeatedly meanwhile; an error that it raises ends the waiting.
    """
    from edgellama.convert.output.file_lock import try_lock

    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK_NAME, "ab") as file:
            if not try_lock(file.fileno()):
                logger.warning("another process is %s; waiting for it", doing)
                while not try_lock(file.fileno()):
                    if check is not None:
                        check()
                    time.sleep(RETRY_SECONDS)
            # A process that failed there has removed the folder: then this lock keeps nobody out.
            if _is_file_at(file.fileno(), folder / LOCK_NAME):
                yield
                return


def is_locked(folder: Path) -> bool:
    """Whether a process works in ``folder`` at this moment."""
    from edgellama.convert.output.file_lock import try_lock

    try:
        with open(folder / LOCK_NAME, "rb+") as file:
            return not try_lock(file.fileno())
    except OSError:
        return False


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
