"""Lets one caller at a time compile into a folder, of all threads and processes.

The others wait, and look at what is made meanwhile. The lock is the system's, on a file in the
folder, so whoever dies leaves it free. Where the file system has no locks, nobody waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_SECONDS = 0.05
"""Between two looks of those who wait."""
PATIENCE_SECONDS = 30.0
"""How long a folder may get nothing new before those who wait go on beside the one who compiles,
which may be a program that was stopped."""
HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
"""What the system says of a lock that another holds."""


@contextmanager
def compile_turn(folder: Path, kind: str, look: Callable[[], bool]) -> Iterator[None]:
    """Wait until nobody else of this ``kind`` compiles into ``folder``, and keep others out.

    While others do, ``look`` is asked whenever something new lies there; it says whether to wait
    any longer. What it raises ends the waiting.
    """
    lock = _open_lock(folder / f"{kind}.lock")
    try:
        if lock is not None:
            _wait(lock, folder, look)
        yield
    finally:
        if lock is not None:
            # Closing it is not enough where a child process was forked meanwhile.
            with contextlib.suppress(OSError):
                _unlock(lock)
            os.close(lock)


def _wait(lock: int, folder: Path, look: Callable[[], bool]) -> None:
    newest, since = -1, time.monotonic()
    while not _is_taken(lock):
        changed = _changed(folder)
        if changed != newest:
            newest, since = changed, time.monotonic()
            if not look():
                return
        elif time.monotonic() - since > PATIENCE_SECONDS:
            return
        time.sleep(LOOK_SECONDS)


def _changed(folder: Path) -> int:
    """Another number when something was added to a folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _open_lock(path: Path) -> int | None:
    """The file of a lock; None where it cannot be made."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None


def _is_taken(lock: int) -> bool:
    """Take a lock, also where there are none; False if another holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD
    return True


def _unlock(lock: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(lock, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_UN)
