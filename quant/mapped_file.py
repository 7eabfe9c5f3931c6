"""Opening a file for reading where it lies: checked to be a regular file, mapped read-only.

What the bytes mean is left to the readers of each format.
"""

from __future__ import annotations

import os
import stat
from mmap import ACCESS_READ, mmap
from pathlib import Path

from edgellama.quant.errors import ModelFileError, ModelNotFoundError
from edgellama.quant.gguf_cursor import file_error


def map_file(path: Path, kind: str) -> mmap:
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
            return mmap(file.fileno(), 0, access=ACCESS_READ)
    except ModelFileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError, OverflowError) as error:  # the last two: NUL in a path, 32 bits
        raise file_error(
            path, f"cannot be read, {error}", kind.replace("a ", "a readable ", 1)
        ) from error
