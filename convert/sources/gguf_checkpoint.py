"""A GGUF file as a source, in one part or several; its tensors stay mapped in their formats.

float64 becomes F32. ``quant.gguf`` reads the file, ``kernels_cpu`` expands quantized rows.
"""

from __future__ import annotations

from pathlib import Path

from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.source_tensor import DoubleTensor, MappedTensor, SourceTensor
from edgellama.quant.gguf.file import GGUFFile, Tensor


def open_gguf(path: Path) -> Checkpoint:
    """The model that ``path`` belongs to; raises as GGUFFile does."""
    with GGUFFile(path) as file:
        return Checkpoint(
            path=path,
            kind="gguf",
            folder=path.parent,
            files=file.files,
            parameters=file.metadata,
            tensors={tensor.name: _source_of(tensor) for tensor in file.tensors.values()},
        )


def _source_of(tensor: Tensor) -> SourceTensor:
    if tensor.format.name == "F64":
        return DoubleTensor(tensor.name, tensor.shape, tensor.data)
    return MappedTensor(tensor.name, tensor.shape, tensor.format, tensor.data)
