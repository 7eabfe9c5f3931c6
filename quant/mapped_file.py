"""Opens a file for reading in place: checks that it is a regular file, and maps it read-only.

The readers of each format know what the bytes mean. If a file is cut short while it is mapped,
touching its lost pages ends the process; ``read_at`` reads without touching the mapping.
``watched_files`` tells whether it happened.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import stat
from pathlib import Path
from typing import TypeAlias

from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelFileError, ModelNotFoundError

CAN_READ_AT = hasattr(os, "pread")
"""Windows has no ``pread``, but lets nobody cut a file that is mapped."""
Stamp: TypeAlias = tuple[int, int]
"""A file's size in bytes, and when it was written, in nanoseconds since 1970."""
NUM_SAMPLES, SAMPLE_BYTES = 8, 1024
"""What tells one content of a file from another: so many pieces of it, spread evenly."""


class _OpenFile(io.FileIO):
    """A file that is closed once nobody refers to it, of which Python's own class would warn."""

    _finalizing = False


class FileMapping(mmap.mmap):
    """A file mapped read-only, which can also be read like any other, where CAN_READ_AT.

    ``stamp`` is that of when it was mapped.
    """

    def hold(self, file: io.FileIO) -> None:
        """Keep the open file as long as the mapping lives."""
        self._file = file
        self.stamp = self.stamp_now()

    def fileno(self) -> int:
        """The open file's descriptor, which stays open as long as the mapping lives."""
        return self._file.fileno()

    def stamp_now(self) -> Stamp:
        """The open file's size, and when it was written; OSError for a drive that is gone."""
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def samples(self) -> list[bytes]:
        """Some of its bytes, the last ones among them; OSError if they cannot be read."""
        last = max(len(self) - SAMPLE_BYTES, 0)
        starts = [last * number // (NUM_SAMPLES - 1) for number in range(NUM_SAMPLES)]
        if CAN_READ_AT:
            return [self.read_at(start, SAMPLE_BYTES) for start in starts]
        return [self[start : start + SAMPLE_BYTES] for start in starts]

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """The bytes from ``offset`` on, fewer where the file has no more."""
        pieces, descriptor = [], self._file.fileno()
        while num_bytes and (piece := os.pread(descriptor, num_bytes, offset)):
            pieces.append(piece)
            offset += len(piece)
            num_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def map_file(path: Path, kind: str) -> FileMapping:
    """The whole file; ``kind`` says what is allowed there, such as "a GGUF file".

    Raises ModelNotFoundError for an absent file, ModelFileError for one that cannot be mapped.
    """
    try:
        # Looked at before it is opened: opening a pipe would wait for a writer.
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            found = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise file_error(path, f"is {found}", kind)
        file = _OpenFile(path)
        if os.fstat(file.fileno()).st_size == 0:
            raise file_error(path, "is empty, 0 bytes", kind)
        mapping = FileMapping(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapping.hold(file)
        _ask_for_huge_pages(mapping)
        return mapping
    except ModelFileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        what = "no such file"
        if path.is_symlink():
            what = f"is a link to {shown(os.readlink(path))}, which is not there"
        raise ModelNotFoundError(f"{path}: {what}") from None
    except (OSError, ValueError, OverflowError) as error:  # the last two: NUL in a path, 32 bits
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise file_error(
            path, f"cannot be read, {reason}", kind.replace("a ", "a readable ", 1)
        ) from error


def give_back(mapping: mmap.mmap, num_bytes: int) -> None:
    """Take the first bytes out of the process's memory until they are read again.

    They stay in the system's cache. A vocabulary is megabytes, which are read once.
    """
    if hasattr(mmap, "MADV_DONTNEED") and (whole_pages := num_bytes & -mmap.PAGESIZE):
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            # Without this they would come back in one huge page, together with what lies behind
            # them.
            with contextlib.suppress(OSError):
                mapping.madvise(mmap.MADV_NOHUGEPAGE, 0, whole_pages)
        mapping.madvise(mmap.MADV_DONTNEED, 0, whole_pages)


def _ask_for_huge_pages(mapping: mmap.mmap) -> None:
    """Let the system read 2 MB at a time and map them as one page, where file and system can.

    Weights are then read a third faster, and a file that is not in the cache yet much sooner.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system built without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
