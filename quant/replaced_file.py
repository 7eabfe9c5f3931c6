"""Replaces a file in one step: a reader finds the old one or the new one, whole.

An error of the system names the file that was meant.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What only writing can raise, without the name of a file."""


@contextmanager
def named_writes(path: Path) -> Iterator[None]:
    """A full disk, which the system reports without the name of a file, is an OSError for path."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in WRITE_ERRORS:
            raise
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from error


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which becomes ``path`` when the block ends well.

    It has reached the disk by then. Otherwise ``path`` stays as it was. OSError if the system
    refuses, which names ``path``.
    """
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    name = os.fspath(partial)
    try:
        with named_writes(path), partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename == name:
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from error
        raise
    finally:
        # Nothing is called before this, because a second Ctrl-C could come there. OSError: the file
        # is gone, or the file system is read-only, which refuses even where no file is.
        try:  # noqa: SIM105
            os.unlink(name)
        except OSError:
            pass
