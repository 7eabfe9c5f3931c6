"""Joins the tensors of a model's shards, by an index if there is one.

The shards themselves decide what a model has: the index only chooses between two copies. The
readers read one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgellama.convert.sources.source_tensor import ElementTensor, SourceTensor, UnreadableTensor
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelFileError

Reader = Callable[[Path], dict[str, SourceTensor]]
COMPARED_BYTES = 1 << 24


class ShardReader:
    """Collects tensors from file after file; ``places``: each tensor's file, as an index says."""

    def __init__(self, folder: Path, read: Reader, places: Mapping[str, Path]) -> None:
        self._folder = folder
        self._read = read
        self._places = places
        self._origins: dict[str, Path] = {}
        self.tensors: dict[str, SourceTensor] = {}

    def add(self, file: Path) -> None:
        """The tensors of one more file; ModelFileError for one that differs from its copy."""
        for name, tensor in self._read(file).items():
            if name in self.tensors and not self._replaces(name, tensor, file):
                continue
            self.tensors[name], self._origins[name] = tensor, file

    def add_unnamed(self, file: Path) -> list[str]:
        """What a file that the index does not name has besides; a note of it, if anything."""
        try:
            content = self._read(file)
        except ModelFileError as error:
            return [f"a shard that the index does not name is passed over: {error}"]
        found = {name: tensor for name, tensor in content.items() if name not in self.tensors}
        if not found:
            return []
        self.tensors |= found
        self._origins |= dict.fromkeys(found, file)
        return [
            f"{shown(file.name)} is not named by the index, but holds {len(found)} tensors that no "
            f"other shard has, such as {shown(min(found))}: they are taken"
        ]

    def _replaces(self, name: str, tensor: SourceTensor, file: Path) -> bool:
        """Whether a second copy is the one to keep."""
        place = self._places.get(name)
        if place in (file, self._origins[name]):
            return place == file
        if _is_copy(tensor, self.tensors[name]):
            return False
        raise file_error(
            file,
            f"tensor {shown(name)} is in {self._origins[name].name} too, with other values",
            "each name once in a model",
        )


def _is_copy(tensor: SourceTensor, other: SourceTensor) -> bool:
    """Whether both hold the same, byte by byte."""
    if isinstance(tensor, ElementTensor) and isinstance(other, ElementTensor):
        is_alike = tensor.element_type == other.element_type
        read, read_other = tensor.raw_rows, other.raw_rows
    elif isinstance(tensor, UnreadableTensor) or isinstance(other, UnreadableTensor):
        return False
    else:
        is_alike = tensor.format == other.format
        read, read_other = tensor.rows, other.rows
    if not is_alike or tensor.shape != other.shape:
        return False
    step = max(1, COMPARED_BYTES // max(1, 4 * tensor.num_columns))
    return all(
        np.array_equal(read(row, min(row + step, end)), read_other(row, min(row + step, end)))
        for end in (tensor.num_rows,)
        for row in range(0, end, step)
    )
