"""Converts a checkpoint once into a file that runs, and keeps it in the user's cache.

It knows which cached file belongs to which source and type, and notices when a source has changed.
The converter is imported only if there is something to convert.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellama.kernels_cpu.machine.user_cache import cache_folders, folder_to_fill, storage_error
from edgellama.models.folder_lock import LOCK_NAME, alone_in
from edgellama.models.leftovers import remove_empty
from edgellama.models.model_files import split_parts
from edgellama.models.names import holds_checkpoint, resolve
from edgellama.quant.errors import ConversionError, ResumeError
from edgellama.quant.recipes import find_recipe_or_copy

if TYPE_CHECKING:
    from edgellama.convert.pipeline import ConversionProgress

DEFAULT_TYPE = "q4_k_m"
"""The default, also for converting to a file of one's own."""
CONVERTED_FOLDER = "converted"
"""Within the cache folder; in it is a folder for each source."""
SOURCE_NAME = "source"
# Files of a checkpoint that a conversion may depend on.
_SOURCE_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".json", ".model", ".jinja")
_HASH_CHARACTERS = 12

logger = logging.getLogger(__name__)


def converted(
    source: str | os.PathLike[str],
    type_name: str,
    progress: Callable[[ConversionProgress], None] | None = None,
    kernel_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The GGUF file that ``source`` becomes as ``type_name``; converted now, or before.

    ``source``: a checkpoint's folder, or what names a GGUF file (then it is requantized).
    ``type_name``: such as "q4_0", or "copy" for a file whose numbers stay. A source that has
    changed since is converted anew, and what was made of its earlier state is removed; a conversion
    that was stopped goes on. Safe to call from several processes at once. ``progress`` and
    ``kernel_progress`` are the converter's.
    Raises ModelNotFoundError, InvalidOptionError, and whatever the conversion raises.
    """
    type_name = find_recipe_or_copy(type_name).name
    path = Path(os.path.expanduser(source))
    path = (path if holds_checkpoint(path) else resolve(source)).resolve()
    name = path.name if path.is_dir() else path.stem
    state = _state_of(path)
    folder_name = f"{CONVERTED_FOLDER}/{name}-{_hash(str(path))}"
    file_name = f"{name}-{type_name}-{state}.gguf"
    for folder in cache_folders(folder_name):
        if (folder / file_name).is_file():
            return folder / file_name
    folder = folder_to_fill(folder_name)
    target = folder / file_name
    with alone_in(folder, "converting this model"), _full_disk_errors(target):
        if not target.is_file():
            _remove_stale(folder, state)
            (folder / SOURCE_NAME).write_text(str(path), "utf-8")
            try:
                _convert_or_go_on(
                    path, target,
                    type=type_name, progress=progress, kernel_progress=kernel_progress,
                )  # fmt: skip
            except BaseException:
                remove_empty(folder, num_parents=1, but_for=(LOCK_NAME, SOURCE_NAME))
                raise
    return target


def _convert_or_go_on(path: Path, target: Path, **how: Any) -> None:
    """Convert, continuing an earlier run that was stopped, if possible."""
    from edgellama.convert import convert

    try:
        convert(path, target, resume=True, **how)
    except ResumeError as error:
        logger.info("starting the conversion again: %s", error)
        convert(path, target, **how)


def read_source(folder: Path) -> str | None:
    """What the files in a folder of conversions were made of; None if that is not known."""
    try:
        return (folder / SOURCE_NAME).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _state_of(source: Path) -> str:
    """A hash of our own version and of the names, sizes and times of a source's files."""
    if source.is_dir():
        files = [path for path in source.iterdir() if path.suffix in _SOURCE_SUFFIXES]
        # Meta keeps the tokenizer of several models in the folder above them.
        files += [path for path in [source.parent / "tokenizer.model"] if path.is_file()]
    else:
        files = split_parts(source)
    lines = [version("edgellama")]
    for path in sorted(files):
        status = path.stat()
        lines.append(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}")
    return _hash("\n".join(lines))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH_CHARACTERS]


@contextlib.contextmanager
def _full_disk_errors(target: Path) -> Iterator[None]:
    """Turn what a full disk does to a conversion into a CacheError that says what to do."""
    try:
        yield
    except (ConversionError, OSError) as error:
        reason: BaseException | None = error
        while reason is not None:
            if isinstance(reason, OSError) and reason.errno == errno.ENOSPC:
                raise storage_error(target, reason) from error
            reason = reason.__cause__ or reason.__context__
        raise


def _remove_stale(folder: Path, state: str) -> None:
    """Drop what was made of earlier states of the source, finished or not."""
    for path in folder.iterdir():
        if path.name not in (LOCK_NAME, SOURCE_NAME) and f"-{state}.gguf" not in path.name:
            with contextlib.suppress(OSError):  # On Windows it may be in use.
                path.unlink()
