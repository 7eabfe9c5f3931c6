"""Whether a model's output is its embedding: compares the configuration with the tensors.

An output that differs from the embedding is kept, whatever the configuration says: merged adapters
and added tokens leave such files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgellama.convert.dequantize.elements import float_rows
from edgellama.convert.sources.source_tensor import MappedTensor, SourceTensor
from edgellama.quant.llama_tensors import OUTPUT
from edgellama.quant.model_config import EMBEDDING

COMPARED_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class OutputTie:
    """``is_tied``: the embedding is the output; ``note``: what the user should hear of it."""

    is_tied: bool
    note: str | None = None


def decide_tie(tensors: Mapping[str, SourceTensor], says_tied: bool, where: str) -> OutputTie:
    """The tie of a model with these tensors, by GGUF names.

    ``says_tied``: what the configuration says, ``where`` in which words. An output that is wanted
    and not there is for others to refuse.
    """
    output, embedding = tensors.get(OUTPUT), tensors.get(EMBEDDING)
    if not says_tied or output is None or embedding is None:
        return OutputTie(says_tied)
    if has_same_values(output, embedding):
        return OutputTie(is_tied=True)
    return OutputTie(
        is_tied=False,
        note=f"{output.name} differs from {embedding.name}, although {where}: it is kept as the "
        "model's output",
    )


def has_same_values(tensor: SourceTensor, other: SourceTensor) -> bool:
    """Whether two tensors are equal, element by element, whatever their formats."""
    if tensor.shape != other.shape:
        return False
    if isinstance(tensor, MappedTensor) and tensor.is_same_piece(other):
        return True
    step = max(1, COMPARED_ELEMENTS // max(1, tensor.num_columns))
    spans = ((row, min(row + step, tensor.num_rows)) for row in range(0, tensor.num_rows, step))
    return all(_are_equal(tensor, other, *span) for span in spans)


def _are_equal(tensor: SourceTensor, other: SourceTensor, first: int, last: int) -> bool:
    if tensor.format == other.format and np.array_equal(
        tensor.rows(first, last), other.rows(first, last)
    ):
        return True
    return np.array_equal(float_rows(tensor, first, last), float_rows(other, first, last))
