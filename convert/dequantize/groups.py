"""Finds the parts of a matrix of packed integers among a module's tensors.

GPTQ, AWQ and compressed-tensors are told apart by names and shapes. ``grouped_tensor`` expands the
matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgellama.convert.dequantize import elements
from edgellama.convert.dequantize.column_reader import ColumnReader
from edgellama.convert.dequantize.grouped_tensor import (
    AWQ_ORDER,
    SIGNED,
    AWQRowsTensor,
    AWQTensor,
    GPTQTensor,
    PackedTensor,
    Parts,
)
from edgellama.convert.dequantize.packed_integers import BITS, WORD_BITS, num_words, unpack_rows
from edgellama.convert.dequantize.settings import USUAL_SIZE, QuantizationSettings, shared_size
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError

Module = Mapping[str, SourceTensor]
PACKED, GPTQ = "weight_packed", "qweight"
PACKED_BITS, UNEVEN_BITS = range(1, 9), (3, 5, 6, 7)
_PARTS = {
    GPTQ: ("qweight", "scales", "qzeros", "g_idx"),
    PACKED: (PACKED, "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"),
}


class Grouping:
    """The quantized matrices of one checkpoint; they share a reader of columns."""

    def __init__(self, source: str, settings: QuantizationSettings) -> None:
        self._source = source
        self._settings = settings
        self._reader = ColumnReader()
        self._zeros_less_one: bool | None = None

    def holds(self, parts: Module) -> bool:
        """Whether a module's tensors are those of a matrix of packed integers."""
        return PACKED in parts or GPTQ in parts

    def take(self, module: str, rest: dict[str, SourceTensor]) -> tuple[str, SourceTensor]:
        """The matrix with what it is called; its parts are taken out of ``rest``.

        ModelFileError for parts that are missing or do not fit.
        """
        name = f"{module}.weight" if module else "weight"
        kind = PACKED if PACKED in rest else GPTQ
        parts = {part: rest.pop(part) for part in _PARTS[kind] if part in rest}
        for needed in _PARTS[kind][: 2 if kind == PACKED else 3]:
            if needed not in parts:
                raise ModelFileError(
                    f"{self._source}: tensor {shown(f'{module}.{needed}')} is missing, without "
                    f"which {kind} cannot be expanded; needed: both"
                )
        for part, tensor in parts.items():
            is_scale, is_zero = part.endswith(("scale", "scales")), part == "weight_zero_point"
            integers = ("I32", "I64", SIGNED) if is_zero else ("I32", "I64")
            allowed: tuple[str, ...] = elements.FLOATS if is_scale else integers
            if elements.element_type(tensor) not in allowed:
                raise self._error(tensor, f"another type than {', '.join(allowed[:3])}")
        if kind == PACKED:
            return self._packed(name, parts)
        if len(parts["scales"].shape) == len(parts[GPTQ].shape) == len(parts["qzeros"].shape) == 2:
            if parts[GPTQ].num_columns * len(AWQ_ORDER) == parts["scales"].num_columns:
                return self._awq(name, parts)
            is_transposed = parts[GPTQ].num_columns == parts["scales"].num_columns
            if not is_transposed and len({part.num_rows for part in parts.values()}) == 1:
                return self._awq_rows(name, parts)
            bias = rest.get("bias")
            # auto_gptq gives every matrix a bias, of zeros where the model has none.
            if bias is not None and not elements.float_rows(bias, 0, bias.num_rows).any():
                del rest["bias"]
            return self._gptq(name, parts)
        raise self._error(parts[GPTQ], "parts that are no matrices")

    def _gptq(self, name: str, parts: Module) -> tuple[str, SourceTensor]:
        integers, scales, zeros = parts[GPTQ], parts["scales"], parts["qzeros"]
        num_groups, num_rows = scales.shape
        bits = self._gptq_bits(parts)
        if not bits or integers.num_columns != num_rows:
            raise self._error(integers, "shapes of no GPTQ matrix of 2, 3, 4 or 8 bits")
        num_columns = integers.num_rows * WORD_BITS // bits
        shape = num_rows, num_columns
        tensor = GPTQTensor(
            name,
            shape,
            self._parts(parts, "g_idx", bits, shape, num_groups),
            self._reader,
            zeros_less_one=self._are_zeros_less_one(zeros, bits),
        )
        return f"GPTQ of {bits} bits", tensor

    def _gptq_bits(self, parts: Module) -> int:
        """The bits of an integer that the shapes fit; 0 if there are none.

        Few rows may fit several: then those that fill words, and what the configuration says.
        """
        num_bits = parts[GPTQ].num_rows * WORD_BITS
        num_groups, num_rows = parts["scales"].shape
        groups = parts.get("g_idx")
        fitting = [
            bits
            for bits in BITS
            if parts["qzeros"].shape == (num_groups, num_words(num_rows, bits))
            and num_bits % bits == 0
            and (groups is None or groups.num_columns == num_bits // bits)
        ]
        stated = self._settings.bits
        return min(
            fitting, key=lambda bits: (num_rows * bits % WORD_BITS != 0, bits != stated), default=0
        )

    def _awq(self, name: str, parts: Module) -> tuple[str, SourceTensor]:
        integers, scales, zeros = parts[GPTQ], parts["scales"], parts["qzeros"]
        num_groups, num_rows = scales.shape
        bits = WORD_BITS // len(AWQ_ORDER)
        if zeros.shape != (num_groups, num_words(num_rows, bits)):
            raise self._error(zeros, "a shape of no AWQ matrix of 4 bits")
        shape = num_rows, integers.num_rows
        found = self._parts(parts, "", bits, shape, num_groups)
        return "AWQ of 4 bits", AWQTensor(name, shape, found, self._reader)

    def _awq_rows(self, name: str, parts: Module) -> tuple[str, SourceTensor]:
        """The rows that AWQ's GEMV kernels read.

        Groups fill words, so only the configuration tells how many there are.
        """
        integers, scales, zeros = parts[GPTQ], parts["scales"], parts["qzeros"]
        bits = WORD_BITS // len(AWQ_ORDER)
        shape = integers.num_rows, integers.num_columns * len(AWQ_ORDER)
        size = self._settings.group_size or USUAL_SIZE
        num_groups = -(-shape[1] // size)
        is_word = zeros.num_columns * len(AWQ_ORDER) == scales.num_columns
        if not is_word or not num_groups <= scales.num_columns < num_groups + 64:
            raise self._error(scales, f"no scales for groups of {size} of {shape[1]} columns")
        found = Parts(integers, scales, zeros, None, bits, size)
        return "AWQ of 4 bits", AWQRowsTensor(name, shape, found)

    def _packed(self, name: str, parts: Module) -> tuple[str, SourceTensor]:
        integers, scales = parts[PACKED], parts["weight_scale"]
        stated = parts.get("weight_shape")
        if stated is None or stated.shape != (2,) or len(scales.shape) != 2:
            raise self._error(integers, "no weight_shape of two numbers, or scales of no matrix")
        num_rows, num_columns = elements.rows(stated, 0, 1)[0].tolist()
        shape = num_rows, num_columns
        if scales.num_rows != num_rows:
            raise self._error(integers, "another shape than its weight_shape and scales say")
        bits, has_gaps = self._packing(parts, shape)
        found = self._parts(parts, "weight_g_idx", bits, shape, scales.num_columns)
        found = replace(found, has_gaps=has_gaps)
        return f"compressed-tensors of {bits} bits", PackedTensor(name, shape, found)

    def _packing(self, parts: Module, shape: tuple[int, int]) -> tuple[int, bool]:
        """Bits of an integer, and whether words hold whole ones alone, as in older versions.

        Shapes leave a choice where 4 integers of 7 bits lie in a word: then the configuration
        decides, and 8 bits are what is usual.
        """
        integers, zeros = parts[PACKED], parts.get("weight_zero_point")
        fitting = [
            (bits, has_gaps)
            for has_gaps in (False, True)
            for bits in (UNEVEN_BITS if has_gaps else PACKED_BITS)
            if integers.shape == (shape[0], num_words(shape[1], bits, has_gaps=has_gaps))
        ]
        if not fitting:
            raise self._error(integers, "another shape than its weight_shape and scales say")
        if zeros is not None and elements.element_type(zeros) != SIGNED:
            fitting = [
                (bits, has_gaps)
                for bits, has_gaps in fitting
                if zeros.shape[:1] == (num_words(shape[0], bits, has_gaps=has_gaps),)
            ]
            count = parts["weight_scale"].num_columns
            if not fitting or zeros.shape[1:] != (count,):
                raise self._error(zeros, "a shape that does not fit the scales")
        elif zeros is not None and zeros.shape != parts["weight_scale"].shape:
            raise self._error(zeros, "a shape that does not fit the scales")
        stated = [packing for packing in fitting if packing[0] in self._settings.packed_bits]
        if len({bits for bits, _ in stated}) > 1:
            widths = " and ".join(str(bits) for bits, _ in stated)
            raise self._error(integers, f"words for {widths} bits alike, both of which are stated")
        return (stated or fitting)[0]

    def _parts(
        self, parts: Module, groups: str, bits: int, shape: tuple[int, int], num_groups: int
    ) -> Parts:
        """The parts, whose groups are those stated, or runs of columns."""
        group_size = shared_size(shape[1], num_groups, self._settings.group_size)
        stated = parts.get(groups)
        if (stated is None and group_size is None) or (stated and stated.shape != (shape[1],)):
            wrong = parts["scales" if "scales" in parts else "weight_scale"]
            raise self._error(stated or wrong, f"no group for each of {shape[1]} columns")
        return Parts(
            integers=parts.get(GPTQ) or parts[PACKED],
            scales=parts.get("scales") or parts["weight_scale"],
            zeros=parts.get("qzeros") or parts.get("weight_zero_point"),
            groups=stated,
            bits=bits,
            group_size=group_size or shape[1],
        )

    def _are_zeros_less_one(self, zeros: SourceTensor, bits: int) -> bool:
        """Whether zero points are stored as in GPTQ's first version; one answer for a checkpoint.

        Symmetric matrices have the middle as their only zero point, which tells the versions
        apart. Else the settings say it, and most checkpoints that say nothing are of the first.
        """
        if self._zeros_less_one is None:
            stated = self._settings.gptq_format
            is_second = stated == "gptq_v2"
            if stated is None or self._settings.is_symmetric:
                values = np.unique(unpack_rows(elements.rows(zeros, 0, zeros.num_rows), bits))
                middle = 1 << (bits - 1)
                if values.tolist() in ([middle], [middle - 1]):
                    is_second = values[0] == middle
            self._zeros_less_one = not is_second
        return self._zeros_less_one

    def _error(self, tensor: SourceTensor, what: str) -> ModelFileError:
        shape = " x ".join(map(str, tensor.shape))
        return ModelFileError(
            f"{self._source}: tensor {shown(tensor.name)} of shape {shape} has {what}; needed: "
            "the parts of one quantized matrix"
        )
