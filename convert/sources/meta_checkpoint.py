"""A folder of Meta's: params.json and consolidated.NN.pth, the shards of model parallelism.

Every shard holds a piece of every matrix. The axis that was cut is known by name, and checked by
shape. ``torch_reader`` and ``safetensors_reader`` read one shard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.json_file import read_json_object
from edgellama.convert.sources.safetensors_reader import read_safetensors
from edgellama.convert.sources.source_tensor import JoinedTensor, SourceTensor
from edgellama.convert.sources.torch_reader import read_torch
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelFileError, ModelNotFoundError

PARAMETERS_FILE = "params.json"
WHOLE_FILE = "consolidated.safetensors"
_SHARD_NAME = re.compile(r"consolidated\.([0-9]{2,4})\.pth")
_JOINED_COLUMNS = ("wo", "w2")
_MAX_SIZE = 1 << 24


@dataclass(frozen=True)
class _Sizes:
    """What params.json says about the shapes of whole matrices; None if it says nothing."""

    width: int
    num_query_rows: int | None
    num_key_rows: int | None


def find_shards(folder: Path) -> tuple[Path, ...]:
    """The weight files of ``folder`` in order, or none; ModelNotFoundError for a gap."""
    if (folder / WHOLE_FILE).is_file():
        return (folder / WHOLE_FILE,)
    names = [path.name for path in folder.glob("consolidated.*.pth")]
    by_number = {int(m[1]): folder / m[0] for m in map(_SHARD_NAME.fullmatch, names) if m}
    for number in range(max(by_number, default=-1)):
        if number not in by_number:
            raise ModelNotFoundError(
                f"{folder}: shard consolidated.{number:02d}.pth is missing; allowed: all from 00 "
                f"to {max(by_number):02d}"
            )
    return tuple(by_number[number] for number in sorted(by_number))


def open_meta(path: Path, folder: Path, files: tuple[Path, ...]) -> Checkpoint:
    """The model in ``folder``, which was opened as ``path``; every tensor is whole.

    Raises ModelFileError for shards that contradict each other or params.json.
    """
    parameters_path = folder / PARAMETERS_FILE
    parameters = read_json_object(parameters_path)
    inner = parameters.get("model", parameters)
    if not isinstance(inner, dict):
        raise file_error(parameters_path, f"model is {shown(inner)}", "an object")
    shards = [read_safetensors(f) if f.suffix == ".safetensors" else read_torch(f) for f in files]
    tensors: Mapping[str, SourceTensor] = shards[0]
    if len(shards) > 1:
        _check_names(files, shards)
        merger = _Merger(folder, _sizes(parameters_path, inner))
        tensors = {name: merger.merge(name, [s[name] for s in shards]) for name in shards[0]}
    return Checkpoint(
        path=path, kind="meta", folder=folder, files=files, parameters=inner, tensors=tensors
    )


def _sizes(path: Path, parameters: Mapping[str, object]) -> _Sizes:
    def size(key: str) -> int | None:
        value = parameters.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _MAX_SIZE:
            raise file_error(path, f"{key} is {shown(value)}", f"1 to {_MAX_SIZE - 1}")
        return value

    width, num_heads = size("dim"), size("n_heads")
    if width is None:
        raise file_error(path, "dim is missing", "the width of the model")
    if num_heads is None:
        return _Sizes(width, None, None)
    head_size = size("head_dim") or width // num_heads
    return _Sizes(width, num_heads * head_size, (size("n_kv_heads") or num_heads) * head_size)


def _check_names(files: Sequence[Path], shards: Sequence[Mapping[str, SourceTensor]]) -> None:
    """ModelFileError unless all shards hold the same names."""
    for file, shard in zip(files, shards, strict=True):
        different = set(shard) ^ set(shards[0])
        if different:
            name = min(different)
            lacking, holding = (files[0], file) if name in shard else (file, files[0])
            raise file_error(
                lacking, f"has no tensor {shown(name)}, which {holding.name} has", "the same names"
            )


class _Merger:
    """Joins the pieces of each tensor."""

    def __init__(self, folder: Path, sizes: _Sizes) -> None:
        self._folder = folder
        self._sizes = sizes

    def merge(self, name: str, parts: Sequence[SourceTensor]) -> SourceTensor:
        """The whole tensor; ModelFileError if the pieces do not make one."""
        shapes, formats = {part.shape for part in parts}, {part.format for part in parts}
        if len(shapes) > 1 or len(formats) > 1:
            found = ", ".join(str(shape) for shape in sorted(shapes))
            raise self._error(name, f"has shards of {len(formats)} formats and shapes {found}")
        if len(parts[0].shape) < 2:
            return parts[0]
        axis = self._axis(name, parts[0].shape, len(parts))
        if axis == 0:
            parts = self._needed_rows(name, parts)
        return JoinedTensor(name, parts, axis)

    def _axis(self, name: str, shape: tuple[int, ...], count: int) -> int:
        """The axis that was cut; the other one has the model's width."""
        width, kind = self._sizes.width, _kind(name)
        if len(shape) == 2:
            if kind in _JOINED_COLUMNS and shape[0] == width:
                return 1
            # Llama 1 and 2 cut the embeddings' columns, Llama 3 their rows.
            if kind == "tok_embeddings" and shape[1] * count == width:
                return 1
            if kind not in _JOINED_COLUMNS and shape[1] == width:
                return 0
        raise self._error(name, f"has {count} shards of shape {shape}")

    def _needed_rows(self, name: str, parts: Sequence[SourceTensor]) -> Sequence[SourceTensor]:
        """The shards that make the whole: all, but for heads that several shards have copies of."""
        expected = {
            "wq": self._sizes.num_query_rows,
            "wk": self._sizes.num_key_rows,
            "wv": self._sizes.num_key_rows,
        }.get(_kind(name))
        num_rows = sum(part.num_rows for part in parts)
        if expected is None or num_rows == expected:
            return parts
        num_copies, rest = divmod(num_rows, expected)
        if rest == 0 and len(parts) % num_copies == 0 and _kind(name) != "wq":
            # More shards than key heads: neighbours have the same head.
            kept = parts[::num_copies]
            if all(_starts_alike(kept, parts[i::num_copies]) for i in range(1, num_copies)):
                return kept
        raise self._error(
            name,
            f"has {num_rows} rows in {len(parts)} shards where params.json says {expected}: is a "
            "shard missing?",
        )

    def _error(self, name: str, what: str) -> ModelFileError:
        return file_error(
            self._folder,
            f"tensor {shown(name)} {what}",
            f"pieces of one matrix of width {self._sizes.width}",
        )


def _kind(name: str) -> str:
    """The part of a name that says what the tensor does: "wq" of layers.0.attention.wq.weight."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 else name


def _starts_alike(some: Sequence[SourceTensor], others: Sequence[SourceTensor]) -> bool:
    """Whether the first rows agree, one by one."""
    return all(
        np.array_equal(a.rows(0, 1), b.rows(0, 1)) for a, b in zip(some, others, strict=True)
    )
