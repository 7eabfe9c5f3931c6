"""One hash of all kernel sources, which tells the compiled code of one version from another's.

If the sources lie beside this file, they are hashed together with the table of formats that kernels
are compiled from. A frozen application may lack the sources; then the hash is used that was stored
when the application or the wheel was built. This module needs the standard library only, because
``setup.py`` runs it too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

try:
    from _blake2 import blake2b  # As in quant/digests, which a build has no name for.
except ImportError:
    from hashlib import blake2b

SOURCE_FOLDER = Path(__file__).parent.parent
DIGEST_BYTES = 32
PIECE_BYTES = 1 << 16
BOUND_NAME = "source_hash.txt"
"""The bound hash, in the folder where the sources would lie."""
FORMATS_FILE = Path("quant", "formats.py")
"""Beside the folder of the sources."""


def hash_sources(folder: Path = SOURCE_FOLDER, beside: Sequence[Path] = (FORMATS_FILE,)) -> str:
    """BLAKE2b, in hexadecimal, of every Python file in ``folder`` with its name.

    ``beside``: files that count too, from the folder's parent.
    """
    key = blake2b(digest_size=DIGEST_BYTES)
    for file in beside:
        key.update((folder.parent / file).read_bytes())
    for name, path in sorted(_python_files(os.fspath(folder))):
        key.update(name.encode() + b"\0")
        _add_content(key, path)
    return key.hexdigest()


def _add_content(key: blake2b, path: str) -> None:
    """Let a hash count a file: without a file object, in two thirds of the time."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        while piece := os.read(descriptor, PIECE_BYTES):
            key.update(piece)
    finally:
        os.close(descriptor)


def _python_files(folder: str, inside: str = "") -> Iterator[tuple[str, str]]:
    """Names with slashes, and paths: a tenth of the time that ``Path.rglob`` takes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield inside + entry.name, entry.path
            elif entry.is_dir(follow_symlinks=False):
                yield from _python_files(entry.path, f"{inside}{entry.name}/")


def bound_hash(folder: Path = SOURCE_FOLDER) -> str | None:
    """The hash that a build has written, or None."""
    try:
        return (folder / BOUND_NAME).read_text("ascii").strip() or None
    except OSError:
        return None


def source_hash(
    folder: Path = SOURCE_FOLDER, beside: Sequence[Path] = (FORMATS_FILE,)
) -> str | None:
    """The hash of the sources that this process would compile; None if nothing tells it.

    A frozen application may carry some of the files, so there the bound hash comes first.
    ``beside`` as for ``hash_sources``.
    """
    bound = bound_hash(folder)
    is_frozen = bool(getattr(sys, "frozen", False))
    needed = [folder / "__init__.py", *(folder.parent / file for file in beside)]
    if all(file.is_file() for file in needed) and not (is_frozen and bound):
        return hash_sources(folder, beside)
    return bound
