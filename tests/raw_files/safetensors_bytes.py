"""safetensors files as raw bytes, right or wrong on purpose."""

import json
import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# uint16 stands for bfloat16, which NumPy lacks.
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16"}
DTYPES |= {"int64": "I64", "int32": "I32", "int8": "I8", "uint8": "U8", "uint32": "U32"}


def entry(dtype: str, shape: object, start: int, end: int) -> dict[str, object]:
    """The header's value for a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def file_of(header: object, data: bytes = b"", num_header_bytes: int | None = None) -> bytes:
    """A whole file; ``header`` is JSON's or raw text, and its length may lie."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (
        struct.pack("<Q", len(raw) if num_header_bytes is None else num_header_bytes) + raw + data
    )


def saved(
    arrays: Mapping[str, NDArray[np.generic]],
    metadata: Mapping[str, str] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> bytes:
    """What the reference implementation writes for these arrays, one after the other.

    ``dtypes``: of tensors whose type NumPy lacks, by name.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        dtype = (dtypes or {}).get(name) or DTYPES[array.dtype.name]
        header[name] = entry(dtype, list(array.shape), len(data), end)
        data += array.tobytes()
    return file_of(header, data)
