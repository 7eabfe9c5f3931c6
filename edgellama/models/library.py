"""The models in the cache: pulled, converted, or made from others; and removing one.

``pulling``, ``checkpoints`` and ``made`` put them there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from edgellama.kernels_cpu.machine.user_cache import cache_folders
from edgellama.models.checkpoints import CONVERTED_FOLDER, read_source
from edgellama.models.made import MADE_FOLDER, NO_PRESET, Preset, made_models
from edgellama.models.model_files import split_parts
from edgellama.models.names import FOLDER_NAME, pulled_models, resolve
from edgellama.models.usage import last_use, marker_path
from edgellama.models.well_known import HUB_PREFIX, NAMED_MODELS
from edgellama.quant.errors import ModelNotFoundError
from edgellama.quant.records import dataclass

_HUB_NOTES = Path(".cache") / "huggingface" / "download"
"""Where the hub's client keeps its notes, within a repository's folder."""


@dataclass(frozen=True)
class StoredModel:
    """A model of the cache; ``path`` is its first part, ``origin`` says where it came from.

    ``preset``: what chats with it begin with, where it was made of another.
    """

    name: str
    path: Path
    origin: str
    preset: Preset = NO_PRESET

    @property
    def files(self) -> list[Path]:
        """All parts that are there."""
        return [part for part in split_parts(self.path) if part.is_file()]

    @property
    def num_bytes(self) -> int:
        """What it takes on the disk."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def last_use(self) -> float | None:
        """When it was opened last, in seconds since 1970; None if it never was."""
        return last_use(self.path)


def stored_models() -> list[StoredModel]:
    """All models of the cache, the pulled ones first."""
    pulled = [StoredModel(name, path, _origin(path)) for name, path in pulled_models().items()]
    made = [
        StoredModel(each.name, each.path, f"made from {each.preset.base}", each.preset)
        for each in made_models()
    ]
    return [*pulled, *_converted_models(), *made]


def find_stored(name: str) -> StoredModel:
    """The model of the cache that a name or a path means; ModelNotFoundError if there is none."""
    models = stored_models()
    found = [model for model in models if model.name == name]
    if not found:
        try:
            path = resolve(name).resolve()
        except ModelNotFoundError:
            held = ", ".join(model.name for model in models) or "none"
            raise ModelNotFoundError(
                f"the cache holds no model called {name!r}; it holds: {held}"
            ) from None
        found = [model for model in models if model.path.resolve() == path]
        if not found:
            raise ModelNotFoundError(f"{path} is not in the cache, so it is left alone")
    if len(found) > 1:
        paths = ", ".join(str(model.path) for model in found)
        raise ModelNotFoundError(f"{name} means several models; give one of their paths: {paths}")
    return found[0]


def remove(model: StoredModel) -> int:
    """Delete a model of the cache, whole; the bytes that this gives back."""
    num_bytes = model.num_bytes
    for file in model.files:
        for note in (marker_path(file), *_hub_notes(file)):
            note.unlink(missing_ok=True)
        file.unlink()
    _remove_empty(model.path.parent)
    return num_bytes


def _converted_models() -> Iterator[StoredModel]:
    for root in cache_folders(CONVERTED_FOLDER):
        for path in sorted(root.glob("*/*.gguf")):
            # The end of the name is a hash of the source's state.
            name = path.stem.rpartition("-")[0] or path.stem
            source = read_source(path.parent)
            origin = f"converted from {source}" if source else "converted"
            yield StoredModel(name, path, origin)


def _origin(path: Path) -> str:
    repository = _repository_of(path)
    if repository is not None:
        owner, name = repository.parts[-2:]
        return f"{HUB_PREFIX}{owner}/{name}:{path.relative_to(repository).as_posix()}"
    for model in NAMED_MODELS.values():
        if path.name == model.file_name:
            return f"the package index, {model.requirement}"
    return "put there by hand"


def _repository_of(path: Path) -> Path | None:
    """The folder of the hub's repository that ``path`` was fetched from, if it was."""
    for root in cache_folders(FOLDER_NAME):
        if path.is_relative_to(root / "hf"):
            return root.joinpath(*path.relative_to(root).parts[:3])
    return None


def _hub_notes(file: Path) -> list[Path]:
    repository = _repository_of(file)
    if repository is None:
        return []
    note = repository / _HUB_NOTES / file.relative_to(repository)
    return [note.with_name(f"{note.name}{ending}") for ending in (".metadata", ".lock")]


def _remove_empty(folder: Path) -> None:
    """Remove a folder, and those above it within the cache, where no model is left in them."""
    names = (FOLDER_NAME, CONVERTED_FOLDER, MADE_FOLDER)
    roots = [root for name in names for root in cache_folders(name)]
    for current in (folder, *folder.parents):
        if not any(current != root and current.is_relative_to(root) for root in roots):
            break
        if any(current.glob("**/*.gguf*")):
            break
        shutil.rmtree(current, ignore_errors=True)
