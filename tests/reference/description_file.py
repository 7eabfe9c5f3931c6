"""Writes a ModelDescription through the ``gguf`` package, every tensor as F32.

A writer of its own, so that what a description says is tested apart from the converter's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from edgellama.convert.model.description import ModelDescription
from edgellama.convert.sources.source_tensor import SourceTensor

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def values_of(tensor: SourceTensor) -> Array:
    """The tensor as float32 in its own shape."""
    rows = tensor.rows(0, tensor.num_rows)
    kind = GGMLQuantizationType[tensor.format.name]
    return quants.dequantize(np.ascontiguousarray(rows), kind).reshape(tensor.shape)


def write_description(path: Path, description: ModelDescription) -> Path:
    """The model file that a description describes, but for the types of its tensors."""
    writer = GGUFWriter(path, "llama")
    for key, item in description.metadata.items():
        if key != "general.architecture":
            value = item.value
            if item.item_type is not None:
                value = [*value] if not isinstance(value, np.ndarray) else value.tolist()
            writer.add_key_value(key, value, item.type, item.item_type)
    for tensor in description.tensors:
        writer.add_tensor(tensor.name, values_of(tensor).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
