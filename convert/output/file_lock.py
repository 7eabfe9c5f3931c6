"""A lock on an open file that ends with the process, on POSIX and on Windows.

The callers know what it protects, and whether they wait for it.
"""

from __future__ import annotations

import os
import sys


def try_lock(descriptor: int) -> bool:
    """Lock the open file for this process alone; False if another holds the lock."""
    if sys.platform == "win32":
        import msvcrt

        # Windows lets nobody read a locked byte, so lock one far past the end.
        os.lseek(descriptor, 1 << 40, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # A file system without locks: better no guard than no conversion.
            return True
    return True
