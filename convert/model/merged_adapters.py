"""Adds adapters to a model's matrices while these are read, a few rows at a time.

The written file then computes what the model with its adapters would. ``quant.gguf`` reads an
adapter's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.gguf.adapter_file import FactorPair, read_adapter
from edgellama.quant.gguf.tensors import Tensor
from edgellama.quant.model_config import EMBEDDING

Floats: TypeAlias = NDArray[np.float32]
ScaledPair: TypeAlias = tuple[FactorPair, float]


class MergedTensor(SourceTensor):
    """A matrix plus scale * b a of each pair of factors, as F32."""

    def __init__(self, matrix: SourceTensor, pairs: Sequence[ScaledPair]) -> None:
        super().__init__(matrix.name, matrix.shape, FORMATS_BY_NAME["F32"])
        self._matrix = matrix
        self._pairs = tuple(pairs)

    def _rows(self, first: int, last: int) -> NDArray[np.uint8]:
        rows, stored = self._matrix.rows(first, last), self._matrix.format
        try:
            values = _floats(rows, stored.ggml_id).astype(np.float32)
        except NotImplementedError:
            raise UnsupportedModelError(
                f"tensor {self.name} is stored as {stored.name}, to which nothing can be added"
            ) from None
        for pair, scale in self._pairs:
            values += np.float32(scale * pair.scale) * _product(pair, first, last)
        return np.ascontiguousarray(values).view(np.uint8).reshape(last - first, self.row_bytes)


def with_adapters(
    tensors: Sequence[SourceTensor],
    adapters: Sequence[tuple[Path, float]],
    base: Path,
    *,
    is_half_split: bool,
) -> tuple[SourceTensor, ...]:
    """The model's tensors, those that adapters change as merged ones.

    ``is_half_split``: the model's order of rows. Raises what ``read_adapter`` raises where there
    are adapters; ``base`` is the model, for its messages.
    """
    if not adapters:
        return tuple(tensors)
    shapes = {tensor.name: tensor.shape for tensor in tensors if len(tensor.shape) == 2}
    max_rank = max(map(max, shapes.values()))
    found: dict[str, list[ScaledPair]] = {}
    for path, scale in adapters:
        pairs: Mapping[str, FactorPair] = MappingProxyType({})
        if scale:
            pairs = read_adapter(path, shapes, base, max_rank, is_half_split=is_half_split).pairs
        for name, pair in pairs.items():
            found.setdefault(name, []).append((pair, scale))
    return tuple(
        MergedTensor(tensor, found[tensor.name]) if tensor.name in found else tensor
        for tensor in tensors
    )


def _product(pair: FactorPair, first: int, last: int) -> Floats:
    """Rows of b a; of the embedding, a row of the table is a row of ``a``."""
    if pair.name == EMBEDDING:
        product: Floats = _factor(pair.a, first, last) @ _factor(pair.b, 0, pair.b.shape[0]).T
    else:
        product = _factor(pair.b, first, last) @ _factor(pair.a, 0, pair.a.shape[0])
    return product


def _factor(tensor: Tensor, first: int, last: int) -> Floats:
    """Rows of a factor."""
    rows = tensor.data.reshape(tensor.shape[0], -1)[first:last]
    return _floats(rows, tensor.format.ggml_id)


def _floats(rows: NDArray[np.uint8], ggml_id: int) -> Floats:
    from gguf import GGMLQuantizationType, quants

    values: Floats = quants.dequantize(rows, GGMLQuantizationType(ggml_id))
    return values
