"""Opening a file that a conversion writes beside its output: made if need be, never through a link.

A folder from elsewhere may hold a link by that name, which would lead the writing to another file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgellama.quant.errors import ConversionError

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


def open_own_file(path: Path) -> int:
    """A descriptor to read and write; ConversionError for what is there and no file of its own.

    OSError as of os.open.
    """
    check_own_file(path)
    descriptor = os.open(path, _FLAGS, 0o666)
    if not _is_own(os.fstat(descriptor)):
        os.close(descriptor)
        raise _no_file(path)
    return descriptor


def check_own_file(path: Path) -> None:
    """ConversionError unless the file can be opened or made, by what is there; opens nothing."""
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if not _is_own(state):
        raise _no_file(path)


def _is_own(state: os.stat_result) -> bool:
    """Whether it is a plain file, without another name under which it would be overwritten."""
    return stat.S_ISREG(state.st_mode) and state.st_nlink <= 1


def _no_file(path: Path) -> ConversionError:
    return ConversionError(f"{path}: is no file of a conversion, which writes there; remove it")
