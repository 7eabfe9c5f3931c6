"""What can be deleted from the cache and made again: old kernels, conversions, leftovers.

The user decides whether it is deleted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from edgellama.kernels_cpu.machine.user_cache import cache_folders
from edgellama.models.checkpoints import CONVERTED_FOLDER
from edgellama.models.folder_lock import is_locked
from edgellama.models.hub_file import PARTIAL_SUFFIX
from edgellama.models.names import FOLDER_NAME
from edgellama.models.progress import STAGING_PREFIX
from edgellama.quant.records import dataclass

KERNELS_FOLDER = "kernels"
CHATS_FOLDER = "chats"
"""Keys and values of conversations, which are computed again from their messages."""
QUIET_SECONDS = 600.0
"""A download whose files have not changed for so long has ended."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can go, and what it is."""

    kind: str
    path: Path
    num_bytes: int


def find_leftovers(kinds: Iterable[str], current_keys: Collection[str]) -> list[Leftover]:
    """All that can go of some KINDS. ``current_keys``: folders of the kernels that are in use."""
    paths = [(kind, path) for kind in kinds for path in KINDS[kind](current_keys)]
    return [Leftover(kind, path, size_of(path)) for kind, path in paths]


def remove_leftover(leftover: Leftover) -> None:
    """Delete it; OSError if the system refuses."""
    if leftover.path.is_dir():
        shutil.rmtree(leftover.path)
    else:
        leftover.path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in _files(path))


def _old_kernels(current_keys: Collection[str]) -> Iterator[Path]:
    for root in cache_folders(KERNELS_FOLDER):
        yield from (path for path in sorted(root.glob("*")) if path.name not in current_keys)


def _conversions(_: Collection[str]) -> Iterator[Path]:
    for root in cache_folders(CONVERTED_FOLDER):
        yield from (path for path in sorted(root.glob("*")) if not is_locked(path))


def _partial_downloads(_: Collection[str]) -> Iterator[Path]:
    older = "hf/*/*/.cache/huggingface/download/**/*.incomplete"
    patterns = (f"{STAGING_PREFIX}*", f"hf/*/*/**/*{PARTIAL_SUFFIX}", older)
    for root in cache_folders(FOLDER_NAME):
        for pattern in patterns:
            yield from (path for path in sorted(root.glob(pattern)) if _is_quiet(path))


def _kept_sessions(_: Collection[str]) -> Iterator[Path]:
    for root in cache_folders(CHATS_FOLDER):
        yield from sorted(path for path in root.glob("*") if path.is_file())


KINDS: Mapping[str, Callable[[Collection[str]], Iterator[Path]]] = MappingProxyType(
    {
        "kernels": _old_kernels,
        "converted": _conversions,
        "downloads": _partial_downloads,
        "chats": _kept_sessions,
    }
)
"""What there is to clean, and how it is found."""


def _is_quiet(path: Path) -> bool:
    newest = max((file.stat().st_mtime for file in (path, *_files(path))), default=0.0)
    return time.time() - newest > QUIET_SECONDS


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
