"""Matrices of four-bit floats (E2M1), NVFP4 and MXFP4, as F32.

Two numbers lie in a byte, the first one in the low bits; groups of a row share a scale. MXFP4 has a
power of two for 32 numbers. NVFP4 has an FP8 for 16 numbers, and one number for the whole matrix:
compressed-tensors divides by it, ModelOpt multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.dequantize import elements
from edgellama.convert.dequantize.elements import FOUR_BITS, element_type, rows, scale_rows
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.error_text import shape_text, shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.formats import FORMATS_BY_NAME

SCALE, DIVISOR, FACTOR = "weight_scale", "weight_global_scale", "weight_scale_2"
NUMBERS = ("weight_packed", "weight")
FP8_SCALE = "F8_E4M3"
GROUPS = (16, 32)


class FourBitFloatTensor(SourceTensor):
    """The matrix of numbers and scales (rows, groups), which go with ``factor / divisor``."""

    def __init__(
        self,
        name: str,
        numbers: SourceTensor,
        scale: SourceTensor,
        factor: np.float32,
        divisor: np.float32,
    ) -> None:
        shape = numbers.num_rows, 2 * numbers.num_columns
        super().__init__(name, shape, FORMATS_BY_NAME["F32"])
        self._numbers, self._scale = numbers, scale
        self._factor, self._divisor = factor, divisor

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        octets = rows(self._numbers, first, last)
        values = np.empty((last - first, self.num_columns), np.float32)
        values[:, 0::2] = FOUR_BITS[octets & 15]
        values[:, 1::2] = FOUR_BITS[octets >> 4]
        scales = scale_rows(self._scale, first, last) * self._factor / self._divisor
        values *= np.repeat(scales, self.num_columns // self._scale.num_columns, axis=1)
        return values.view(np.uint8)


def are_four_bit_floats(parts: Mapping[str, SourceTensor]) -> bool:
    """Whether a module's tensors are those of such a matrix."""
    numbers, scale = _numbers(parts), parts.get(SCALE)
    if numbers is None or scale is None or element_type(parts[numbers]) != "U8":
        return False
    return element_type(scale) in elements.POWERS or (
        element_type(scale) == FP8_SCALE and (DIVISOR in parts or FACTOR in parts)
    )


def take_four_bit_floats(
    source: Path, module: str, rest: dict[str, SourceTensor]
) -> tuple[str, FourBitFloatTensor]:
    """The matrix with what it is called; its parts are taken out of ``rest``.

    ModelFileError for parts that do not fit.
    """
    name, found = f"{module}.weight", _numbers(rest) or ""
    numbers, scale = rest.pop(found), rest.pop(SCALE)
    factor, divisor = (_number(source, rest.pop(part, None)) for part in (FACTOR, DIVISOR))
    size = 2 * numbers.num_columns // max(1, scale.num_columns)
    is_matrix = len(numbers.shape) == len(scale.shape) == 2 and numbers.num_rows == scale.num_rows
    if not is_matrix or size not in GROUPS or size * scale.num_columns != 2 * numbers.num_columns:
        raise ModelFileError(
            f"{source}: the scales of {shown(name)}, of shape {shape_text(scale.shape)}, do not "
            f"fit {shape_text(numbers.shape)} pairs of numbers; needed: one for 16 or 32 numbers"
        )
    title = "MXFP4" if element_type(scale) in elements.POWERS else "NVFP4"
    return title, FourBitFloatTensor(name, numbers, scale, factor, divisor)


def _numbers(parts: Mapping[str, SourceTensor]) -> str | None:
    return next((name for name in NUMBERS if name in parts), None)


def _number(source: Path, tensor: SourceTensor | None) -> np.float32:
    """The only number of a tensor, above 0; 1 if there is none."""
    if tensor is None:
        return np.float32(1)
    is_number = tensor.shape in ((), (1,)) and element_type(tensor) in elements.PLAIN
    value = elements.float_rows(tensor, 0, 1)[0, 0] if is_number else np.float32(np.nan)
    if not (value > 0 and np.isfinite(value)):
        raise ModelFileError(
            f"{source}: tensor {shown(tensor.name)} of shape {shape_text(tensor.shape)} is "
            f"{value}; needed: one number above 0"
        )
    return np.float32(value)
