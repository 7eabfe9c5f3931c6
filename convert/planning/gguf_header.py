"""The bytes of a GGUF file before its tensors: metadata and the table of tensors.

The gguf package's writer gives the same bytes (a test compares), but takes a second for a
vocabulary of 128,000 tokens, as long as quantizing a model of a billion weights.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from gguf import GGUFValueType

from edgellama.convert.metadata import MetadataItem
from edgellama.quant.formats import Format
from edgellama.quant.gguf.strings import StringArray

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32

_NUMBERS: Mapping[GGUFValueType, str] = MappingProxyType(
    {
        GGUFValueType.UINT8: "<u1",
        GGUFValueType.INT8: "<i1",
        GGUFValueType.UINT16: "<u2",
        GGUFValueType.INT16: "<i2",
        GGUFValueType.UINT32: "<u4",
        GGUFValueType.INT32: "<i4",
        GGUFValueType.FLOAT32: "<f4",
        GGUFValueType.BOOL: "|b1",
        GGUFValueType.UINT64: "<u8",
        GGUFValueType.INT64: "<i8",
        GGUFValueType.FLOAT64: "<f8",
    }
)


@dataclass(frozen=True)
class TableEntry:
    """A line of the table of tensors; ``offset`` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    format: Format
    offset: int


def aligned(num_bytes: int) -> int:
    """``num_bytes`` rounded up to where the next tensor, or the first, may start."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def header_bytes(metadata: Mapping[str, MetadataItem], table: Sequence[TableEntry]) -> bytes:
    """Everything before the data, padded to ALIGNMENT."""
    pieces = [MAGIC, struct.pack("<IQQ", VERSION, len(table), len(metadata))]
    for key, item in metadata.items():
        pieces += [_text(key), struct.pack("<I", item.type), _value(item)]
    for entry in table:
        sizes = tuple(reversed(entry.shape))
        layout = f"<I{len(sizes)}QIQ"
        line = struct.pack(layout, len(sizes), *sizes, entry.format.ggml_id, entry.offset)
        pieces += [_text(entry.name), line]
    header = b"".join(pieces)
    return header + bytes(aligned(len(header)) - len(header))


def _value(item: MetadataItem) -> bytes:
    if item.item_type is None:
        return _WRITERS.get(item.type, _number)(item.value, item.type)
    items: Sequence[object] = item.value  # type: ignore[assignment]  # an array is a sequence
    start = struct.pack("<IQ", item.item_type, len(items))
    return start + _ARRAY_WRITERS.get(item.item_type, _number)(items, item.item_type)


def _text(text: object) -> bytes:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)  # type: ignore[call-overload]
    return struct.pack("<Q", len(raw)) + raw


def _number(value: object, kind: GGUFValueType) -> bytes:
    if isinstance(value, bytes):
        return value
    return np.asarray(value, _NUMBERS[kind]).tobytes()


def _string(value: object, kind: GGUFValueType) -> bytes:
    return _text(value)


def _strings(values: object, kind: GGUFValueType) -> bytes:
    if isinstance(values, StringArray):
        return values.raw
    return b"".join(map(_text, values))  # type: ignore[call-overload]


_WRITERS: Mapping[GGUFValueType, Callable[[object, GGUFValueType], bytes]] = MappingProxyType(
    {GGUFValueType.STRING: _string}
)
_ARRAY_WRITERS: Mapping[GGUFValueType, Callable[[object, GGUFValueType], bytes]] = MappingProxyType(
    {GGUFValueType.STRING: _strings}
)
