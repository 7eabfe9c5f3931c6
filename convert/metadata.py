"""Metadata of the file to be written: values with their GGUF types.

``output.writer`` writes the bytes. The modules that build metadata know the keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gguf import GGUFValueType

MAX_UNSIGNED = (1 << 32) - 1
MIN_INTEGER, MAX_INTEGER = -(1 << 31), (1 << 31) - 1


@dataclass(frozen=True)
class MetadataItem:
    """A value and its GGUF type; ``item_type`` is that of an array's items, else None.

    Strings are str, also in arrays; bytes that are not UTF-8 are surrogates and are written with
    ``errors="surrogateescape"``. Arrays are sequences or NumPy arrays.
    """

    value: object
    type: GGUFValueType
    item_type: GGUFValueType | None = None

    def __post_init__(self) -> None:
        if (self.type == GGUFValueType.ARRAY) != (self.item_type is not None):
            raise ValueError(f"items of type {self.item_type} in a value of type {self.type}")


def unsigned(value: int) -> MetadataItem:
    """A count, a size or an id as 32 bits; ValueError if it does not fit."""
    if not 0 <= value <= MAX_UNSIGNED:
        raise ValueError(f"{value} is no 32-bit unsigned number")
    return MetadataItem(value, GGUFValueType.UINT32)


def integer(value: float) -> MetadataItem:
    """A whole number as 32 bits with a sign; ValueError if it does not fit."""
    if value != int(value) or not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError(f"{value} is no 32-bit integer")
    return MetadataItem(int(value), GGUFValueType.INT32)


def number(value: float) -> MetadataItem:
    """A finite number, to be stored as float32."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return MetadataItem(value, GGUFValueType.FLOAT32)


def flag(value: bool) -> MetadataItem:
    """True or false."""
    return MetadataItem(value, GGUFValueType.BOOL)


def text(value: str) -> MetadataItem:
    """A string."""
    return MetadataItem(value, GGUFValueType.STRING)


def texts(values: Sequence[str]) -> MetadataItem:
    """An array of strings."""
    return MetadataItem(values, GGUFValueType.ARRAY, GGUFValueType.STRING)


def numbers(values: Sequence[float]) -> MetadataItem:
    """An array of float32."""
    return MetadataItem(values, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)


def integers(values: Sequence[int]) -> MetadataItem:
    """An array of int32."""
    return MetadataItem(values, GGUFValueType.ARRAY, GGUFValueType.INT32)


def octets(values: bytes) -> MetadataItem:
    """An array of uint8."""
    array = np.frombuffer(values, np.uint8)
    return MetadataItem(array, GGUFValueType.ARRAY, GGUFValueType.UINT8)
