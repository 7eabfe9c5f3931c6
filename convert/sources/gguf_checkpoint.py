"""A GGUF file as a source, split or not: its tensors stay mapped in the formats they have.

Reading the file is left to quant.gguf, expanding quantized rows to kernels_cpu.
"""

from __future__ import annotations

from pathlib import Path

from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.source_tensor import MappedTensor
from edgellama.quant.gguf.file import GGUFFile


def open_gguf(path: Path) -> Checkpoint:
    """The model that ``path`` belongs to; raises as GGUFFile does."""
    with GGUFFile(path) as file:
        return Checkpoint(
            path=path,
            kind="gguf",
            folder=path.parent,
            files=file.files,
            parameters=file.metadata,
            tensors={
                tensor.name: MappedTensor(tensor.name, tensor.shape, tensor.format, tensor.data)
                for tensor in file.tensors.values()
            },
        )
