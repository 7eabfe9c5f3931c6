"""Matrices that bitsandbytes stores in 4 bits, NF4 or FP4, as F32.

A number is an index into a table of 16 values, times the largest magnitude of its block. Blocks run
along the rows and from one row to the next; their magnitudes may be quantized, too.
Source: bitsandbytes' dequantize_4bit and QuantState.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.dequantize.elements import Floats, element_type, float_rows, rows
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.json_file import MAX_JSON_BYTES, parse_json_object
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.formats import FORMATS_BY_NAME

STATE = "weight.quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
PARTS = (
    *("weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map"),
    *(f"{STATE}{kind}" for kind in KINDS),
)
_NUM_CODES, _NUM_NESTED_CODES = 16, 256


@dataclass(frozen=True)
class Magnitudes:
    """The largest magnitude of each block of numbers; ``nested`` are those of blocks of them,
    which are then places in ``table`` and taken from ``offset``.
    """

    stored: SourceTensor
    block: int
    table: Floats | None = None
    nested: Floats | None = None
    nested_block: int = 1
    offset: float = 0.0

    def values(self, first: int, last: int) -> Floats:
        """The values of blocks ``first`` to before ``last``."""
        if self.table is None or self.nested is None:
            found: Floats = float_rows(self.stored, 0, 1)[0, first:last]
            return found
        places = rows(self.stored, 0, 1)[0, first:last]
        factors = self.nested[np.arange(first, last) // self.nested_block]
        expanded: Floats = self.table[places] * factors + np.float32(self.offset)
        return expanded


class FourBitTensor(SourceTensor):
    """The matrix (rows, columns) of numbers that lie two in a byte, the first above."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        numbers: SourceTensor,
        table: Floats,
        magnitudes: Magnitudes,
    ) -> None:
        super().__init__(name, shape, FORMATS_BY_NAME["F32"])
        self._numbers, self._table, self._magnitudes = numbers, table, magnitudes

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        start, end = first * self.num_columns, last * self.num_columns
        octets = rows(self._numbers, start // 2, -(-end // 2))[:, 0]
        codes = np.stack((octets >> 4, octets & 15), axis=1).reshape(-1)
        values = self._table[codes[start % 2 : start % 2 + end - start]]
        size = self._magnitudes.block
        block = start // size
        spread = np.repeat(self._magnitudes.values(block, -(-end // size)), size)
        values *= spread[start - block * size : end - block * size]
        return values.view(np.uint8).reshape(last - first, self.row_bytes)


def take_four_bits(source: Path, module: str, rest: dict[str, SourceTensor]) -> FourBitTensor:
    """The matrix of a module's tensors, which are taken out of ``rest``.

    Raises ModelFileError for parts that are missing or do not fit.
    """
    name = f"{module}.weight"
    parts = {part: rest.pop(part) for part in ("weight", *PARTS) if part in rest}
    state = next((parts[p] for p in parts if p.startswith(STATE)), None)
    if state is None or len(state.shape) != 1 or state.shape[0] > MAX_JSON_BYTES:
        raise _error(source, name, f"no {STATE}nf4 or fp4 beside it, the text that describes it")
    what = f"the description of {shown(name)}"
    fields = Fields(parse_json_object(source, rows(state, 0, 1).tobytes(), what), str(source))
    shape = fields.items("shape")
    if len(shape) != 2 or not all(isinstance(size, int) and 0 < size < 1 << 31 for size in shape):
        raise _error(source, name, "a shape that is none of a matrix")
    num_rows, num_columns = (int(str(size)) for size in shape)
    num_weights, numbers = num_rows * num_columns, parts["weight"]
    if numbers.shape != (-(-num_weights // 2), 1) or element_type(numbers) != "U8":
        raise _error(source, name, f"another number of bytes than {num_rows} x {num_columns} need")
    magnitudes = _magnitudes(source, name, parts, fields, num_weights)
    table = _vector(source, name, parts, "weight.quant_map", _NUM_CODES)
    return FourBitTensor(name, (num_rows, num_columns), numbers, table, magnitudes)


def _magnitudes(
    source: Path, name: str, parts: Mapping[str, SourceTensor], fields: Fields, num_weights: int
) -> Magnitudes:
    block, stored = fields.size("blocksize"), parts.get("weight.absmax")
    num_blocks = -(-num_weights // block)
    is_nested = "weight.nested_absmax" in parts
    kind = "U8" if is_nested else "F32"
    if stored is None or stored.shape != (num_blocks,) or element_type(stored) != kind:
        raise _error(source, name, f"no weight.absmax of {num_blocks} {kind} numbers")
    if not is_nested:
        return Magnitudes(stored, block)
    nested_block = fields.size("nested_blocksize")
    nested = _vector(source, name, parts, "weight.nested_absmax", -(-num_blocks // nested_block))
    table = _vector(source, name, parts, "weight.nested_quant_map", _NUM_NESTED_CODES)
    offset = fields.number("nested_offset")
    return Magnitudes(stored, block, table, nested, nested_block, offset)


def _vector(
    source: Path, name: str, parts: Mapping[str, SourceTensor], part: str, length: int
) -> Floats:
    tensor = parts.get(part)
    if tensor is None or tensor.shape != (length,) or element_type(tensor) != "F32":
        raise _error(source, name, f"no {part} of {length} F32 numbers")
    vector: Floats = float_rows(tensor, 0, 1)[0]
    return vector


def _error(source: Path, name: str, what: str) -> ModelFileError:
    return ModelFileError(
        f"{source}: tensor {shown(name)} has {what}; needed: the parts that bitsandbytes saves"
    )
