"""A Hugging Face folder: config.json, and weights in safetensors or torch files, whole or sharded.

Which files belong together and whether all are there; reading one is left to
safetensors_reader and torch_reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.json_file import read_json_object
from edgellama.convert.sources.safetensors_reader import read_safetensors
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.convert.sources.torch_reader import read_torch
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelNotFoundError, UnsupportedModelError

CONFIG_FILE = "config.json"
Reader = Callable[[Path], dict[str, SourceTensor]]


@dataclass(frozen=True)
class Layout:
    """How weights may be stored: ``stem`` and ``suffix`` of the files, and who reads one."""

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

    def shards(self, folder: Path) -> tuple[Path, ...]:
        """The numbered files of ``folder`` in order, or none.

        ModelNotFoundError unless they are 1 to the count in their names.
        """
        stem, suffix = re.escape(self.stem), re.escape(self.suffix)
        pattern = re.compile(rf"{stem}-([0-9]{{1,6}})-of-([0-9]{{1,6}}){suffix}")
        names = sorted(path.name for path in folder.glob(f"{self.stem}-*{self.suffix}"))
        matches = [match for match in map(pattern.fullmatch, names) if match]
        by_number = {int(match[1]): folder / match[0] for match in matches}
        counts = sorted({int(match[2]) for match in matches})
        is_one = len(counts) < 2 and len(by_number) == len(matches)
        if not is_one or not all(1 <= number <= counts[0] for number in by_number):
            raise file_error(
                folder, f"has {len(matches)} shards of models of {counts} files", "one model"
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
    """The files of a model in order; ``places`` names each tensor's file if an index did."""

    layout: Layout
    files: tuple[Path, ...]
    places: Mapping[str, Path] | None = None


def single_file(file: Path) -> Weights:
    """A file of any name that holds a whole model."""
    read = read_safetensors if file.suffix == ".safetensors" else read_torch
    return Weights(Layout(file.stem, file.suffix, read), (file,))


def open_hugging_face(path: Path, folder: Path, weights: Weights) -> Checkpoint:
    """The model in ``folder``, which was opened as ``path``.

    Raises ModelNotFoundError for a missing shard, ModelFileError for files that contradict
    each other, UnsupportedModelError for quantized weights.
    """
    config_path = folder / CONFIG_FILE
    config = read_json_object(config_path)
    _refuse_quantized(config_path, config)
    return Checkpoint(
        path=path,
        kind="hugging_face",
        folder=folder,
        files=weights.files,
        parameters=config,
        tensors=_read_all(folder, weights),
    )


def _refuse_quantized(path: Path, config: Mapping[str, object]) -> None:
    settings = config.get("quantization_config")
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    raise UnsupportedModelError(
        f"{path}: quantization_config has quant_method {shown(method)}; allowed: weights in F32, "
        "F16 or BF16, so dequantize the model first, or take the one it was made from"
    )


def find_weights(folder: Path) -> Weights | None:
    """The weights of ``folder``, safetensors first; None if there are none."""
    for layout in LAYOUTS:
        if (folder / layout.whole).is_file():
            return Weights(layout, (folder / layout.whole,))
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
    files = tuple(folder / name for name in sorted(set(weight_map.values())))
    for file in files:
        if not file.is_file():
            raise ModelNotFoundError(
                f"{path}: names {shown(file.name)}, which is missing; allowed: all "
                f"{len(files)} files that the index names"
            )
    return Weights(layout, files, {name: folder / file for name, file in weight_map.items()})


def _is_plain_name(file: str) -> bool:
    """Whether ``file`` can only mean a file of the same folder."""
    return Path(file).name == file != "" and not {"/", "\\", "\0"} & set(file)


def _read_all(folder: Path, weights: Weights) -> dict[str, SourceTensor]:
    tensors: dict[str, SourceTensor] = {}
    origins: dict[str, Path] = {}
    for file in weights.files:
        for name, tensor in weights.layout.read(file).items():
            if name in tensors:
                raise file_error(
                    file,
                    f"tensor {shown(name)} is in {origins[name].name} too",
                    "each name once in a model",
                )
            tensors[name], origins[name] = tensor, file
    for name, file in (weights.places or {}).items():
        if origins.get(name) != file:
            raise file_error(
                folder / weights.layout.index,
                f"names tensor {shown(name)} in {file.name}, which does not hold it",
                "names of tensors that are there",
            )
    return tensors
