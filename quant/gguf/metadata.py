"""Metadata of a GGUF file: key and value pairs as Python and NumPy values.

It knows the thirteen types of values. The readers of the mapping know what keys mean. Arrays of
strings are only walked over here, and decoded when somebody asks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from edgellama.quant.error_text import shown
from edgellama.quant.gguf.cursor import Cursor
from edgellama.quant.gguf.strings import StringArray

MAX_KEYS = 65536  # real files have about 50
MAX_KEY_BYTES = 65535  # of the GGUF specification
MAX_ARRAY_DEPTH = 4
MAX_NESTED_ARRAYS = 65536  # in a whole file: each costs an object, whatever its size

MetadataValue: TypeAlias = Union[
    bool, int, float, str, NDArray[np.generic], StringArray, "tuple[MetadataValue, ...]"
]

_BOOL, _STRING, _ARRAY = 7, 8, 9
_TYPE_NAMES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"),
    *("bool", "string", "array", "uint64", "int64", "float64"),
)
_NUMBERS: Mapping[int, np.dtype[np.generic]] = MappingProxyType(
    {
        i: np.dtype(name).newbyteorder("<")
        for i, name in enumerate(_TYPE_NAMES)
        if name[-1].isdigit()
    }
)
# The fewest bytes that an item of an array takes, by type.
_ITEM_BYTES: Mapping[int, int] = MappingProxyType(
    {_BOOL: 1, _STRING: 8, _ARRAY: 12} | {i: dtype.itemsize for i, dtype in _NUMBERS.items()}
)
MIN_PAIR_BYTES = 8 + 1 + 4 + 1  # length, key, type, value


def read_metadata(cursor: Cursor, num_keys: int) -> tuple[dict[str, MetadataValue], dict[str, int]]:
    """The next ``num_keys`` pairs and their types; ModelFileError for an impossible one.

    Numeric arrays are read-only NumPy arrays of the file's type, arrays of strings are
    StringArray, arrays of arrays are tuples. Nothing refers to the mapping. Types are GGUF's.
    """
    reader = _ValueReader(cursor)
    metadata: dict[str, MetadataValue] = {}
    types: dict[str, int] = {}
    for index in range(num_keys):
        key = cursor.name(f"metadata key {index}", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(f"metadata key {shown(key)} is there twice", "each key once")
        types[key], metadata[key] = reader.typed_value(f"metadata key {shown(key)}")
    return metadata, types


class _ValueReader:
    """Reads values one after the other, and counts the arrays that lie in arrays."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._num_nested_left = MAX_NESTED_ARRAYS

    def typed_value(self, what: str) -> tuple[int, MetadataValue]:
        """The next type and the value after it."""
        type_id = self._type(what)
        return type_id, self._value(type_id, what)

    def _value(self, type_id: int, what: str) -> MetadataValue:
        if type_id == _STRING:
            return self._cursor.string(what).decode("utf-8", "surrogateescape")
        if type_id == _ARRAY:
            return self._array(what, depth=1)
        value: bool | int | float = self._numbers(type_id, 1, what)[0].item()
        return value

    def _type(self, what: str) -> int:
        type_id = self._cursor.unsigned32(f"the type of {what}")
        if type_id >= len(_TYPE_NAMES):
            known = ", ".join(f"{i} {name}" for i, name in enumerate(_TYPE_NAMES))
            raise self._cursor.error(f"the type of {what} is {type_id}", known)
        return type_id

    def _array(self, what: str, depth: int) -> MetadataValue:
        if depth > MAX_ARRAY_DEPTH:
            raise self._cursor.error(f"{what} nests arrays {depth} deep", f"{MAX_ARRAY_DEPTH} deep")
        type_id = self._type(f"the items of {what}")
        if type_id == _STRING:
            return self._cursor.strings(what)
        maximum = self._num_nested_left if type_id == _ARRAY else sys.maxsize
        count = self._cursor.count(f"the length of {what}", _ITEM_BYTES[type_id], maximum)
        if type_id == _ARRAY:
            self._num_nested_left -= count
            return tuple(self._array(what, depth + 1) for _ in range(count))
        return self._numbers(type_id, count, what)

    def _numbers(self, type_id: int, count: int, what: str) -> NDArray[np.generic]:
        """``count`` numbers or booleans as a read-only array of their own bytes."""
        raw = self._cursor.take(count * _ITEM_BYTES[type_id], what)
        if type_id != _BOOL:
            return np.frombuffer(raw, _NUMBERS[type_id])
        if raw.strip(b"\x00\x01"):
            wrong = next(byte for byte in raw if byte > 1)
            raise self._cursor.error(f"{what} holds the boolean {wrong}", "0 and 1")
        return np.frombuffer(raw, np.bool_)
