"""Importance matrices on disk: llama.cpp's GGUF files, read and written, and its older .dat files.

It knows names, sums and counts, and checks every length against the file. The callers check whether
a row fits the tensor of its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from edgellama.convert.output.whole_file import whole_file
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.cursor import Cursor
from edgellama.quant.gguf.file import GGUFFile, Tensor
from edgellama.quant.mapped_file import map_file

FILE_KIND = "imatrix"
SUMS_SUFFIX, COUNT_SUFFIX = ".in_sum2", ".counts"
MAX_NAME_BYTES = 64  # of a tensor in GGUF
_ENTRY_BYTES = 4 + 1 + 4 + 4 + 4  # of a .dat: length, name, calls, number of values, one value

Row = NDArray[np.float32]


class _ImatrixWriter(GGUFWriter):
    """A GGUF file that names no architecture, because it belongs to no model's."""

    def add_architecture(self) -> None:
        """Do nothing: an importance matrix has no architecture."""


def read_imatrix(path: str | os.PathLike[str]) -> dict[str, Row]:
    """Mean squares of each matrix's input, f32 (columns,) by the matrix's GGUF name.

    Matrices that were never used are not there. Raises ModelNotFoundError, or ModelFileError
    for a malformed file or an entry that is no mean of squares.
    """
    path = Path(path)
    buffer = map_file(path, "an importance matrix")
    rows = (
        _read_gguf(path) if buffer[:4] == b"GGUF" else _read_dat(Cursor(path, buffer, len(buffer)))
    )
    if not rows:
        raise file_error(path, "holds 0 entries", "an importance matrix of one or more")
    return rows


def write_imatrix(
    path: str | os.PathLike[str],
    sums: Mapping[str, NDArray[np.float64]],
    *,
    num_tokens: int,
    chunk_tokens: int,
    datasets: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Write sums of squares over ``num_tokens`` tokens, by GGUF name, as llama.cpp does.

    ``datasets``: the texts' names. Raises ConversionError if there is no writing, and
    InvalidOptionError for sums that no reader would take.
    """
    path = Path(path)
    for name, row in sums.items():
        if not _are_squares(row):
            raise InvalidOptionError(
                f"the sums of {name} are not numbers from 0; the model does not compute any"
            )
    with (
        whole_file(path, overwrite=overwrite) as partial,
        closing(_ImatrixWriter(partial, "")) as writer,
    ):
        writer.add_type(FILE_KIND)
        writer.add_array("imatrix.datasets", list(datasets))
        writer.add_uint32("imatrix.chunk_count", num_tokens // chunk_tokens)
        writer.add_uint32("imatrix.chunk_size", chunk_tokens)
        for name in sorted(sums):
            writer.add_tensor(name + SUMS_SUFFIX, sums[name].astype(np.float32))
            writer.add_tensor(name + COUNT_SUFFIX, np.array([num_tokens], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _read_gguf(path: Path) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    with GGUFFile(path) as file:
        kind = file.metadata.get("general.type")
        if kind != FILE_KIND:
            raise file_error(path, f"general.type is {shown(kind)}", f"{FILE_KIND!r}")
        for tensor in file.tensors.values():
            name = tensor.name.removesuffix(SUMS_SUFFIX)
            if name == tensor.name:
                continue
            sums = _squares(path, tensor)
            count = _squares(path, _counts_of(path, file.tensors, name))
            if len(count) != 1:
                raise file_error(
                    path, f"{shown(name)} stands for {len(count)} matrices", "one, not experts"
                )
            if 0 < count[0] < 1:
                raise file_error(path, f"{shown(name)} has a count of {count[0]}", "0, or from 1")
            if count[0] > 0:
                rows[name] = sums / count[0]
    return rows


def _counts_of(path: Path, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    counts = tensors.get(name + COUNT_SUFFIX)
    if counts is None:
        raise file_error(path, f"{shown(name)} has sums and no counts", "both")
    return counts


def _squares(path: Path, tensor: Tensor) -> Row:
    """All numbers of an F32 tensor, checked."""
    if tensor.format.name != "F32":
        raise file_error(path, f"{shown(tensor.name)} has format {tensor.format.name}", "F32")
    return _checked(path, tensor.name, tensor.data.view("<f4"))


def _read_dat(cursor: Cursor) -> dict[str, Row]:
    """Entries of (name, calls, values): the values are means times calls."""
    rows: dict[str, Row] = {}
    num_entries = _count(cursor, "the number of entries of an importance matrix", _ENTRY_BYTES)
    for index in range(num_entries):
        name = _name(cursor, f"the name of entry {index}")
        if name in rows:
            raise cursor.error(f"entry {shown(name)} is there twice", "each name once")
        num_calls = cursor.unsigned32(f"the number of calls of {shown(name)}")
        num_values = _count(cursor, f"the number of values of {shown(name)}", 4)
        raw = cursor.take(4 * num_values, f"the values of {shown(name)}")
        values = _checked(cursor.path, name, np.frombuffer(raw, "<f4"))
        rows[name] = values / np.float32(max(1, num_calls))
    return rows


def _count(cursor: Cursor, what: str, item_bytes: int) -> int:
    """The next int32 as a number of items, of at least ``item_bytes`` each, that still fit."""
    number = cursor.unsigned32(what)
    room = (cursor.limit - cursor.position) // item_bytes
    if not 1 <= number <= room:
        raise cursor.error(f"{what} is {number}", f"1 to {room} here")
    return number


def _name(cursor: Cursor, what: str) -> str:
    num_bytes = cursor.unsigned32(f"the length of {what}")
    if not 1 <= num_bytes <= MAX_NAME_BYTES:
        raise cursor.error(f"the length of {what} is {num_bytes}", f"1 to {MAX_NAME_BYTES} bytes")
    raw = cursor.take(num_bytes, what)
    name = raw.decode("utf-8", "replace")
    if not name.isprintable():
        raise cursor.error(f"{what} is {shown(raw)}", "printable UTF-8")
    return name


def _checked(path: Path, name: str, values: Row) -> Row:
    if not _are_squares(values):
        wrong = values[~(np.isfinite(values) & (values >= 0))][0]
        raise file_error(path, f"{shown(name)} holds {wrong}", "numbers from 0")
    return values.astype(np.float32)


def _are_squares(values: NDArray[np.float32] | NDArray[np.float64]) -> bool:
    return bool((np.isfinite(values) & (values >= 0)).all())
