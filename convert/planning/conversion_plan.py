"""The plan of a conversion: every tensor with its format, and the files with their layout.

It is made from headers alone, so that ``--dry-run`` can show it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.metadata import MetadataItem
from edgellama.convert.planning.gguf_header import TableEntry, aligned, header_bytes
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.formats import Format
from edgellama.quant.recipes import Recipe


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the source and the format it will have.

    ``importance``: how much an error in each column matters, f32 (columns,); None for alike.
    """

    source: SourceTensor
    format: Format
    importance: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.importance is not None and self.importance.shape != (self.num_columns,):
            raise ValueError(f"importance of {self.name} is not of {self.num_columns} columns")

    @property
    def name(self) -> str:
        """The name in the file."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes in NumPy's order."""
        return self.source.shape

    @property
    def num_rows(self) -> int:
        """Rows along the last axis."""
        return self.source.num_rows

    @property
    def num_columns(self) -> int:
        """Elements of a row."""
        return self.source.num_columns

    @property
    def num_weights(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a written row."""
        return self.format.row_bytes(self.num_columns)

    @property
    def num_bytes(self) -> int:
        """Bytes that will be written."""
        return self.num_rows * self.row_bytes

    @property
    def is_copy(self) -> bool:
        """Whether the bytes stay as they are."""
        return self.source.format == self.format


@dataclass(frozen=True)
class PlannedFile:
    """One file of the result; ``offsets`` of its tensors count from the start of the file."""

    path: Path
    metadata: Mapping[str, MetadataItem]
    tensors: tuple[PlannedTensor, ...]
    header: bytes
    offsets: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The whole file, with the padding after the last tensor."""
        if not self.tensors:
            return len(self.header)
        return aligned(self.offsets[-1] + self.tensors[-1].num_bytes)


@dataclass(frozen=True)
class ConversionPlan:
    """A whole conversion. ``output`` is the path asked for, ``files`` what will be there.

    ``source_files`` are those that must not be written to. ``notes``: where the source says one
    thing and holds another, what is done. ``adapters``: files that are added, with scales.
    """

    source: Path
    source_files: tuple[Path, ...]
    output: Path
    recipe: Recipe
    tensors: tuple[PlannedTensor, ...]
    files: tuple[PlannedFile, ...]
    notes: tuple[str, ...] = ()
    adapters: tuple[tuple[Path, float], ...] = ()

    @property
    def num_weights(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.num_weights for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors as written."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def source_bytes(self) -> int:
        """Bytes of all tensors in the source."""
        return sum(tensor.source.num_bytes for tensor in self.tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the written tensors over their elements."""
        return 8 * self.tensor_bytes / self.num_weights


def lay_out(
    path: Path, metadata: Mapping[str, MetadataItem], tensors: Sequence[PlannedTensor]
) -> PlannedFile:
    """A file that holds ``tensors`` one after another, each aligned."""
    table, offset = [], 0
    for tensor in tensors:
        table.append(TableEntry(tensor.name, tensor.shape, tensor.format, offset))
        offset = aligned(offset + tensor.num_bytes)
    header = header_bytes(metadata, table)
    offsets = tuple(len(header) + entry.offset for entry in table)
    return PlannedFile(path, metadata, tuple(tensors), header, offsets)
