"""The tensor table of a GGUF file: names, shapes, formats, and where the bytes lie.

It checks each entry by itself, and all of them against the data section. ``part`` maps the bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgellama.quant.error_text import INCOMPLETE, shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.formats import FORMATS_BY_ID, RETIRED_FORMATS, Format
from edgellama.quant.gguf.cursor import Cursor
from edgellama.quant.records import dataclass

MAX_TENSORS = 131072  # real files have about 1,000
MAX_TENSOR_NAME_BYTES = 64  # of the GGUF specification
MAX_DIMENSIONS = 4
MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # length, name, dimensions, one size, type, offset
_AFTER_DIMENSIONS = tuple(struct.Struct(f"<{n}QIQ") for n in range(MAX_DIMENSIONS + 1))
"""Sizes, format and offset, by the number of dimensions."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model file.

    ``shape`` is in NumPy's order, (rows, columns): GGUF's sizes reversed. ``data`` is a
    read-only view of the mapped file, uint8, one dimension, ``num_bytes`` long.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    num_bytes: int
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.data.shape != (self.num_bytes,) or self.data.dtype != np.uint8:
            raise ValueError(f"data of {self.name} is not {self.num_bytes} bytes")


@dataclass(frozen=True)
class TensorEntry:
    """One line of the table; ``offset`` counts from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    format: Format
    num_bytes: int
    offset: int


def read_tensor_entries(cursor: Cursor, num_tensors: int) -> list[TensorEntry]:
    """The next ``num_tensors`` entries; ModelFileError for a wrong or repeated one."""
    entries: dict[str, TensorEntry] = {}
    for index in range(num_tensors):
        name = cursor.name(f"the name of tensor {index}", MAX_TENSOR_NAME_BYTES)
        if name in entries:
            raise cursor.error(f"tensor {shown(name)} is there twice", "each name once")
        entries[name] = _read_entry(cursor, name)
    return list(entries.values())


def _read_entry(cursor: Cursor, name: str) -> TensorEntry:
    what = f"tensor {shown(name)}"
    num_dimensions = cursor.unsigned32(f"the number of dimensions of {what}")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"{what} has {num_dimensions} dimensions", f"1 to {MAX_DIMENSIONS}")
    kinds = _AFTER_DIMENSIONS[num_dimensions]
    *sizes, format_id, offset = cursor.numbers(kinds, f"the sizes, format and offset of {what}")
    if min(sizes) == 0:
        raise cursor.error(f"{what} has the sizes {sizes}", "sizes of 1 and more")
    tensor_format = FORMATS_BY_ID.get(format_id)
    if tensor_format is None:
        raise _no_format(cursor, format_id, what)
    try:
        row_bytes = tensor_format.row_bytes(sizes[0])
    except ModelFileError as error:
        raise ModelFileError(f"{cursor.path}: {what}: {error}") from None
    # Python's integers do not overflow, so a product past 64 bits is simply larger than the file.
    num_bytes = row_bytes * math.prod(sizes[1:])
    return TensorEntry(name, tuple(reversed(sizes)), tensor_format, num_bytes, offset)


def _no_format(cursor: Cursor, format_id: int, what: str) -> ModelFileError:
    retired = RETIRED_FORMATS.get(format_id)
    note = f" ({retired}, which ggml has withdrawn)" if retired else ""
    known = ", ".join(f"{f.ggml_id} {f.name}" for f in FORMATS_BY_ID.values())
    return cursor.error(f"the format of {what} is {format_id}{note}", known)


def check_layout(
    cursor: Cursor, entries: Sequence[TensorEntry], alignment: int, data_bytes: int
) -> None:
    """ModelFileError unless every tensor is aligned, inside the data section, and alone there."""
    for entry in entries:
        if entry.offset % alignment:
            what = f"the offset of tensor {shown(entry.name)}"
            raise cursor.error(f"{what} is {entry.offset}", f"multiples of {alignment}")
        if entry.offset + entry.num_bytes > data_bytes:
            raise cursor.error(
                f"tensor {shown(entry.name)} with shape {entry.shape} in {entry.format.name} has "
                f"{entry.num_bytes} bytes at offset {entry.offset}",
                f"the data section has {max(0, data_bytes)} bytes; {INCOMPLETE}",
            )
    for before, after in pairwise(sorted(entries, key=lambda entry: entry.offset)):
        end = before.offset + before.num_bytes
        if after.offset < end:
            what = f"tensor {shown(after.name)} at offset {after.offset}"
            raise cursor.error(f"{what} overlaps {shown(before.name)}", f"offsets from {end}")
