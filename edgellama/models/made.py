"""Models made from others, under a new name: another model's files, and the beginning of its chats.

Each has a folder of its own in the cache. Its files are links to the other's, so they take no space
and stay when the other is deleted, unless they were written anew in another type.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from edgellama.kernels_cpu.machine.user_cache import cache_folders, folder_to_fill, storage_error
from edgellama.models.model_files import split_parts
from edgellama.models.progress import staging_folder
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.models.progress import Progress

MADE_FOLDER = "made"
PRESET_NAME = "preset.json"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
_NAME = re.compile(rf"{_PART}(/{_PART}){{0,2}}(:{_PART})?")


@dataclass(frozen=True)
class Preset:
    """What was said when a model was made of the model ``base``; empty fields say nothing.

    ``parameters`` are options of its texts, in the words of whoever made it. ``messages`` stand
    before those of every chat, behind ``system``.
    """

    base: str = ""
    system: str = ""
    template: str = ""
    license: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] = ()


NO_PRESET = Preset()
"""Of a model that was made of no other."""


@dataclass(frozen=True)
class MadeModel:
    """A model by its name; ``path`` is its file, or the first of them."""

    name: str
    path: Path
    preset: Preset


def made_models() -> Iterator[MadeModel]:
    """All of them; what is damaged is left out."""
    for root in cache_folders(MADE_FOLDER):
        for file in sorted(root.glob(f"*/{PRESET_NAME}")):
            paths = sorted(file.parent.glob("*.gguf"))
            try:
                preset = Preset(**json.loads(file.read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            if paths:
                yield MadeModel(unquote(file.parent.name), paths[0], preset)


def check_name(name: str) -> str:
    """A name that a model may be given; InvalidOptionError for any other, such as a path."""
    if _NAME.fullmatch(name) is None:
        raise InvalidOptionError(
            f"the name is {shown(name)}; allowed: letters, digits, dots, hyphens and underscores, "
            "in up to three parts with / between them, and :TAG"
        )
    return name


def make(
    name: str,
    source: Path,
    preset: Preset,
    *,
    type_name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a model, in the place of one that was made with this name before.

    Arguments:
        name: What it is called.
        source: A GGUF file, or the first part of several.
        preset: What its chats begin with.
        type_name: Write it anew as this type, such as "q4_k_m". None (the default) takes the
            source's files as they are.
        progress: Called as ``progress(bytes so far, bytes in all)`` of a source that is written
            anew; what it raises ends the making. None (the default) tells nobody.

    Returns:
        The path of its file, or of the first of several.

    Raises:
        InvalidOptionError: The name, or the type.
        ModelNotFoundError: The source is gone.
        CacheError: It cannot be stored.
        ConversionError: It cannot be written in this type.
    """
    folder = folder_to_fill(MADE_FOLDER) / quote(check_name(name), safe="")
    with staging_folder(folder.parent) as staging:
        new = staging / "new"
        new.mkdir()
        with _cache_errors(folder):
            if type_name is None:
                for part in split_parts(source):
                    _link(part, new / part.name)
            else:
                _write_anew(source, new / "model.gguf", type_name, progress)
            (new / PRESET_NAME).write_text(json.dumps(asdict(preset)), "utf-8")
            _replace(new, folder, staging / "old")
    return next(path for path in sorted(folder.glob("*.gguf")))


def _write_anew(source: Path, target: Path, type_name: str, progress: Progress | None) -> None:
    from edgellama.convert import convert

    def note(event: Any) -> None:
        if progress is not None:
            progress(event.bytes_done, event.bytes_total)

    convert(source, target, type=type_name, progress=note)
    for path in target.parent.iterdir():
        if path.suffix != ".gguf":
            path.unlink()


def _link(file: Path, link: Path) -> None:
    """Another name of a file; where the file system has none a reference to it."""
    file = file.resolve()
    if not file.is_file():
        raise ModelNotFoundError(f"{file} is not there any more")
    try:
        os.link(file, link)
    except OSError:
        link.symlink_to(file)


def _replace(new: Path, folder: Path, old: Path) -> None:
    """Put a folder in the place of another, which may be there or not."""
    if folder.exists():
        folder.rename(old)
    new.rename(folder)


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Raise what the system refuses as a CacheError."""
    try:
        yield
    except ModelNotFoundError:
        raise
    except OSError as error:
        raise storage_error(folder, error) from error
