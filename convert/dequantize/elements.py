"""Numbers as safetensors and torch store them: rows of a tensor as NumPy arrays, and as f32.

FP8 is read by tables of its 256 values (OCP's E4M3 and E5M2, and AMD's variants without negative
zero and infinities), FP4 by its 16 values. The ``*_tensor`` files know what a number stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.sources.source_tensor import ElementTensor, SourceTensor
from edgellama.quant.formats import MXFP4_CODEBOOK

Floats: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[Any]
_TYPES: Mapping[str, str] = MappingProxyType(
    {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    | {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1", "U32": "<u4"}
    | {"F8_E4M3": "<u1", "F8_E5M2": "<u1", "F8_E8M0": "<u1"}
    | {"F8_E4M3FNUZ": "<u1", "F8_E5M2FNUZ": "<u1"}
)
PLAIN = ("F32", "F16", "BF16")
FP8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FLOATS = (*PLAIN, *FP8, "F8_E8M0")
POWERS = ("U8", "F8_E8M0")
"""Types that powers of two are stored as, as scales."""


def element_type(tensor: SourceTensor) -> str:
    """Safetensors' name of the type; empty for what cannot be read at all."""
    if isinstance(tensor, ElementTensor):
        return tensor.element_type if tensor.element_type in _TYPES else ""
    return tensor.format.name if type(tensor).format is SourceTensor.format else ""


def rows(tensor: SourceTensor, first: int, last: int) -> Numbers:
    """Rows as they are stored, (last - first, columns); BF16 and FP8 as unsigned integers."""
    read = tensor.raw_rows if isinstance(tensor, ElementTensor) else tensor.rows
    content = np.ascontiguousarray(read(first, last))
    numbers: Numbers = content.view(_TYPES[element_type(tensor)])
    return numbers.reshape(last - first, tensor.num_columns)


def as_floats(numbers: Numbers, type_name: str) -> Floats:
    """The values of stored numbers, which ``rows`` gave of a tensor of that type."""
    if type_name == "BF16":
        values: Floats = (numbers.astype(np.uint32) << 16).view(np.float32)
        return values
    if type_name in _TABLES:
        found: Floats = _table(type_name)[numbers]
        return found
    return numbers.astype(np.float32)


def float_rows(tensor: SourceTensor, first: int, last: int) -> Floats:
    """The values of rows, (last - first, columns)."""
    return as_floats(rows(tensor, first, last), element_type(tensor))


def scale_rows(tensor: SourceTensor, first: int, last: int) -> Floats:
    """The values of scales: those of eight bits without a type of their own are powers of two."""
    stored = element_type(tensor)
    return as_floats(rows(tensor, first, last), "F8_E8M0" if stored == "U8" else stored)


def _small_floats(exponent_bits: int, bias: int, *, has_negative_zero: bool) -> Floats:
    """The 256 values of a sign, an exponent and a mantissa, subnormals and zeros included."""
    codes = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponents = (codes & 0x7F) >> mantissa_bits
    mantissas = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitudes = np.where(
        exponents == 0,
        np.ldexp(mantissas, 1 - bias),
        np.ldexp(1 + mantissas, exponents - bias),
    )
    values: Floats = np.where(codes >= 128, -magnitudes, magnitudes).astype(np.float32)
    if not has_negative_zero:
        values[128] = np.nan
    return values


def _e4m3() -> Floats:
    values = _small_floats(4, 7, has_negative_zero=True)
    values[[0x7F, 0xFF]] = np.nan
    return values


def _e5m2() -> Floats:
    """The upper half of a half."""
    halves = (np.arange(256, dtype=np.uint16) << 8).view(np.float16)
    return halves.astype(np.float32)


def _e8m0() -> Floats:
    """Powers of two, of scales alone."""
    values: Floats = np.ldexp(1.0, np.minimum(np.arange(256), 254) - 127).astype(np.float32)
    values[255] = np.nan
    return values


FOUR_BITS: Floats = np.array(MXFP4_CODEBOOK, np.float32) / np.float32(2)
"""The 16 values of FP4 (E2M1)."""
_TABLES: Mapping[str, Callable[[], Floats]] = MappingProxyType(
    {
        "F8_E4M3": _e4m3,
        "F8_E5M2": _e5m2,
        "F8_E4M3FNUZ": lambda: _small_floats(4, 8, has_negative_zero=False),
        "F8_E5M2FNUZ": lambda: _small_floats(5, 16, has_negative_zero=False),
        "F8_E8M0": _e8m0,
    }
)


@cache
def _table(type_name: str) -> Floats:
    return _TABLES[type_name]()
