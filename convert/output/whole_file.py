"""Writes a file under another name, and renames it when it is complete.

It is for files that are made in one go. ``writer`` has its own way, because its work can be
resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgellama.quant.errors import ConversionError


def check_output(path: Path, *, overwrite: bool) -> None:
    """ConversionError if ``path`` cannot become a new file; worth asking before long work."""
    if path.is_dir():
        raise ConversionError(f"{path} is a folder; needed: the path of a file")
    if path.exists() and not overwrite:
        raise ConversionError(f"{path} is there already; choose another path, or overwrite it")
    if not path.parent.is_dir():
        raise ConversionError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConversionError(f"{path}: the folder {path.parent} cannot be written to")


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` when the block ends well.

    Otherwise nothing is left. Raises ConversionError as ``check_output`` does, and for what the
    system refuses meanwhile, such as a full disk.
    """
    check_output(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ConversionError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
