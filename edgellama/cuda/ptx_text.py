"""Files of PTX, one for each kernel and behind a digest, and the hash of the PTX's sources.

Which kernels there are is left to ``signatures``, and how their text is made to ``ptx_target``.
"""

from __future__ import annotations

from pathlib import Path

from edgellama.kernels_cpu.compiling.compile_worker import read_checked, write_checked
from edgellama.kernels_cpu.compiling.source_hash import source_hash

SOURCE_FOLDER = Path(__file__).parent


def card_source_hash() -> str | None:
    """The hash of this room's sources; None if nothing tells it."""
    return source_hash(SOURCE_FOLDER, beside=())


def write_ptx(folder: Path, name: str, text: str) -> Path:
    """Write a kernel's PTX atomically; its file. CacheError where that cannot be done."""
    path = folder / f"{name}.ptx"
    write_checked(path, text.encode("ascii"))
    return path


def read_ptx(folder: Path, name: str) -> str | None:
    """A kernel's PTX; None where it is absent, damaged or another's."""
    content = read_checked(folder / f"{name}.ptx")
    text = None if content is None else content.decode("ascii", "replace")
    return text if text and f".entry {name}(" in text else None
