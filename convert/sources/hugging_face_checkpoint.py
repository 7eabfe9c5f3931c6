"""A Hugging Face folder: config.json, and weights in safetensors or torch files, whole or sharded.

It knows which files belong together, and whether all are there. ``safetensors_reader`` and
``torch_reader`` read one file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.json_file import read_json_object
from edgellama.convert.sources.safetensors_reader import read_safetensors
from edgellama.convert.sources.shards import Reader, ShardReader
from edgellama.convert.sources.torch_reader import read_torch
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelNotFoundError

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Layout:
    """How weights may be stored: ``stem`` and ``suffix`` of the files, and the reader of one."""

    stem: str
    suffix: str
    read: Reader

    @property
    def whole(self) -> str:
        """The one file of a model that is not split."""
        return f"{self.stem}{self.suffix}"

    @property
    def index(self) -> str:
        """The table of which tensor is in which shard."""
        return f"{self.stem}{self.suffix}.index.json"

    def numbered(self, folder: Path) -> dict[Path, tuple[int, int]]:
        """The files of ``folder`` that are called shards, with their numbers and counts."""
        stem, suffix = re.escape(self.stem), re.escape(self.suffix)
        pattern = re.compile(rf"{stem}-([0-9]{{1,6}})-of-([0-9]{{1,6}}){suffix}")
        names = sorted(path.name for path in folder.glob(f"{self.stem}-*{self.suffix}"))
        matches = [match for match in map(pattern.fullmatch, names) if match]
        return {folder / match[0]: (int(match[1]), int(match[2])) for match in matches}

    def shards(self, folder: Path) -> tuple[Path, ...]:
        """The numbered files of ``folder`` in order, or none.

        ModelNotFoundError unless they are 1 to the count in their names.
        """
        numbered = self.numbered(folder)
        by_number = {number: path for path, (number, _) in numbered.items()}
        counts = sorted({count for _, count in numbered.values()})
        is_one = len(counts) < 2 and len(by_number) == len(numbered)
        if not is_one or not all(1 <= number <= counts[0] for number in by_number):
            raise file_error(
                folder, f"has {len(numbered)} shards of models of {counts} files", "one model"
            )
        for number in range(1, counts[0] + 1 if counts else 0):
            if number not in by_number:
                raise ModelNotFoundError(
                    f"{folder}: shard {self.stem}-{number:05d}-of-{counts[0]:05d}{self.suffix} is "
                    f"missing; allowed: all {counts[0]} shards"
                )
        return tuple(by_number[number] for number in range(1, len(by_number) + 1))


# In the order of preference.
LAYOUTS = (
    Layout("model", ".safetensors", read_safetensors),
    Layout("pytorch_model", ".bin", read_torch),
)


@dataclass(frozen=True)
class Weights:
    """The files of a model in order; ``places`` names each tensor's file if an index did, and
    ``unnamed`` are the shards of the same model that it does not name. ``notes``: what its user
    should hear.
    """

    layout: Layout
    files: tuple[Path, ...]
    places: Mapping[str, Path] = field(default_factory=dict)
    unnamed: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def holds(self, file: Path) -> bool:
        """Whether a file is one of the model's."""
        return file in self.files or file in self.unnamed


def single_file(file: Path) -> Weights:
    """A file of any name that holds a whole model."""
    read = read_safetensors if file.suffix == ".safetensors" else read_torch
    return Weights(Layout(file.stem, file.suffix, read), (file,))


def open_hugging_face(path: Path, folder: Path, weights: Weights) -> Checkpoint:
    """The model in ``folder``, which was opened as ``path``.

    Raises ModelNotFoundError if no shard is there, ModelFileError for files that contradict
    each other.
    """
    config = read_json_object(folder / CONFIG_FILE)
    shards = ShardReader(folder, weights.layout.read, weights.places)
    for file in weights.files:
        shards.add(file)
    notes = [*weights.notes, *(n for file in weights.unnamed for n in shards.add_unnamed(file))]
    return Checkpoint(
        path=path,
        kind="hugging_face",
        folder=folder,
        files=(*weights.files, *weights.unnamed),
        parameters=config,
        tensors=shards.tensors,
        absent={name: file for name, file in weights.places.items() if name not in shards.tensors},
        notes=notes,
    )


def find_weights(folder: Path) -> Weights | None:
    """The weights of ``folder``, safetensors first; None if there are none."""
    for layout in LAYOUTS:
        if (folder / layout.whole).is_file():
            beside = len(layout.numbered(folder))
            note = f"{layout.whole} counts, and the {beside} shards beside it do not"
            return Weights(layout, (folder / layout.whole,), notes=(note,) if beside else ())
        if (folder / layout.index).is_file():
            return _indexed(folder, layout)
        shards = layout.shards(folder)
        if shards:
            return Weights(layout, shards)
    return None


def _indexed(folder: Path, layout: Layout) -> Weights:
    """What the index names; ModelFileError or ModelNotFoundError if it cannot be so."""
    path = folder / layout.index
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise file_error(path, f"weight_map is {shown(weight_map)}", "tensor names and their files")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _is_plain_name(file):
            raise file_error(
                path,
                f"weight_map names {shown(file)} for {shown(name)}",
                "files in the same folder",
            )
    named = [folder / name for name in sorted(set(weight_map.values()))]
    files = tuple(file for file in named if file.is_file())
    if not files:
        shards = layout.shards(folder)
        if shards:
            note = f"{path.name} names none of the {len(shards)} shards that are there, which count"
            return Weights(layout, shards, notes=(note,))
        raise ModelNotFoundError(
            f"{path}: names {shown(named[0].name)}, which is missing; allowed: all {len(named)} "
            "files that the index names"
        )
    return Weights(
        layout,
        files,
        {name: folder / file for name, file in weight_map.items()},
        _unnamed_shards(folder, layout, named),
    )


def _unnamed_shards(folder: Path, layout: Layout, named: Sequence[Path]) -> tuple[Path, ...]:
    """Numbered files of the model that ``named`` are of, by the count in their names."""
    numbered = layout.numbered(folder)
    counts = {numbered[file][1] for file in named if file in numbered}
    return tuple(
        file for file, (_, count) in numbered.items() if count in counts and file not in named
    )


def _is_plain_name(file: str) -> bool:
    """Whether ``file`` can only mean a file of the same folder."""
    return Path(file).name == file not in ("", "..") and not {"/", "\\", "\0"} & set(file)
