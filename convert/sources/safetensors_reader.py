"""safetensors files: a JSON header, checked against the file, and tensors mapped where they lie.

The format: 8 bytes with the header's length, the header, and all tensors without gaps.
``hugging_face_checkpoint`` joins the shards of a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from edgellama.convert.sources.json_file import MAX_JSON_BYTES, parse_json_object
from edgellama.convert.sources.source_tensor import (
    DoubleTensor,
    ElementTensor,
    MappedTensor,
    SourceTensor,
    UnreadableTensor,
)
from edgellama.quant.error_text import INCOMPLETE, file_error, shown
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.mapped_file import map_file

MAX_HEADER_BYTES = MAX_JSON_BYTES  # a model of 1,000 tensors has about 100 kB
MAX_TENSORS = 131072
MAX_DIMENSIONS = 8
READABLE_DTYPES, DOUBLE_DTYPE = ("F32", "F16", "BF16"), "F64"
_LENGTH_BYTES = 8
# The dtypes whose size is known, in bits; later ones are accepted until somebody reads them.
_DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
    | {"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64}
    | {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
    | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
)


@dataclass(frozen=True)
class _Entry:
    """One tensor of the header; ``start`` and ``end`` count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors(path: Path) -> dict[str, SourceTensor]:
    """The tensors of one file, in the order of their bytes; of other dtypes only elements.

    Raises ModelNotFoundError, or ModelFileError for a header that the file does not bear out.
    """
    buffer = map_file(path, "a safetensors file")
    if buffer[:7] == b"version":
        raise file_error(
            path,
            "is a Git LFS pointer: the file itself was not downloaded",
            "a safetensors file",
        )
    num_header_bytes = int.from_bytes(buffer[:_LENGTH_BYTES], "little")
    data_start = _LENGTH_BYTES + num_header_bytes
    if data_start > len(buffer) or num_header_bytes > MAX_HEADER_BYTES:
        raise file_error(
            path,
            f"the header has {num_header_bytes} bytes",
            f"at most {max(0, min(MAX_HEADER_BYTES, len(buffer) - _LENGTH_BYTES))} here"
            + ("" if num_header_bytes > MAX_HEADER_BYTES else f"; {INCOMPLETE}"),
        )
    entries = _read_header(path, buffer[_LENGTH_BYTES:data_start])
    _check_extents(path, entries, len(buffer) - data_start)
    mapped = np.frombuffer(buffer, np.uint8)
    tensors: dict[str, SourceTensor] = {}
    for entry in entries:
        data = mapped[data_start + entry.start : data_start + entry.end]
        if entry.dtype in READABLE_DTYPES:
            tensor_format = FORMATS_BY_NAME[entry.dtype]
            tensors[entry.name] = MappedTensor(entry.name, entry.shape, tensor_format, data)
            continue
        if entry.dtype == DOUBLE_DTYPE:
            tensors[entry.name] = DoubleTensor(entry.name, entry.shape, data)
            continue
        refusal = (
            f"{path}: tensor {shown(entry.name)} has dtype {shown(entry.dtype)}; allowed: "
            f"{', '.join((*READABLE_DTYPES, DOUBLE_DTYPE))}; quantized models must be dequantized "
            "first"
        )
        if _DTYPE_BITS.get(entry.dtype, 0) % 8 == 0 < _DTYPE_BITS.get(entry.dtype, 0):
            tensors[entry.name] = ElementTensor(entry.name, entry.shape, entry.dtype, data, refusal)
        else:
            tensors[entry.name] = UnreadableTensor(entry.name, entry.shape, refusal)
    return tensors


def _read_header(path: Path, raw: bytes) -> list[_Entry]:
    """All tensors of the header by their place in the file, each checked by itself."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise file_error(path, f"{shown(key)} is twice in the header", "each name once")
            found[key] = value
        return found

    header = parse_json_object(path, raw, "the header", unique)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise file_error(path, f"the header names {len(header)} tensors", f"{MAX_TENSORS}")
    entries = [_read_entry(path, name, value) for name, value in header.items()]
    return sorted(entries, key=lambda entry: (entry.start, entry.end))


def _read_entry(path: Path, name: str, value: object) -> _Entry:
    what = f"tensor {shown(name)}"
    if not isinstance(value, dict):
        raise file_error(path, f"{what} is {shown(value)}", "an object with dtype and shape")
    if not name.isprintable() or not name:
        raise file_error(path, f"{what} is no name", "printable text")
    dtype = value.get("dtype")
    if not isinstance(dtype, str):
        raise file_error(path, f"the dtype of {what} is {shown(dtype)}", "text")
    shape = _numbers(path, f"the shape of {what}", value.get("shape"))
    offsets = _numbers(path, f"data_offsets of {what}", value.get("data_offsets"))
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise file_error(path, f"data_offsets of {what} are {offsets}", "[start, end]")
    entry = _Entry(name, dtype, shape, *offsets)
    _check_size(path, entry)
    return entry


def _numbers(path: Path, what: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        raise file_error(path, f"{what} is {shown(value)}", f"up to {MAX_DIMENSIONS} numbers")
    for number in value:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 64:
            raise file_error(path, f"{what} holds {shown(number)}", "whole numbers from 0")
    return tuple(value)


def _check_size(path: Path, entry: _Entry) -> None:
    bits = _DTYPE_BITS.get(entry.dtype)
    num_bytes = entry.end - entry.start
    if bits is not None and math.prod(entry.shape) * bits != 8 * num_bytes:
        raise file_error(
            path,
            f"tensor {shown(entry.name)} with shape {list(entry.shape)} in {entry.dtype} has "
            f"{num_bytes} bytes",
            f"{math.prod(entry.shape) * bits / 8:.0f}",
        )


def _check_extents(path: Path, entries: list[_Entry], data_bytes: int) -> None:
    """ModelFileError unless the tensors, sorted, fill the data without gap or overlap."""
    end = 0
    for entry in entries:
        if entry.start != end:
            relation = "overlaps the one before" if entry.start < end else "leaves a gap"
            raise file_error(
                path, f"tensor {shown(entry.name)} at offset {entry.start} {relation}", f"{end}"
            )
        end = entry.end
    if end != data_bytes:
        allowed = f"the same number; {INCOMPLETE}" if end > data_bytes else "the same number"
        raise file_error(path, f"the tensors have {end} bytes, the file {data_bytes}", allowed)
