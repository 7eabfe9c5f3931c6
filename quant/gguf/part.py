"""One GGUF file on disk: opened, mapped read-only, and parsed into metadata and tensors.

A part knows nothing of its siblings; ``file`` joins the parts of a split model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from edgellama.quant.error_text import shown
from edgellama.quant.gguf.cursor import Cursor
from edgellama.quant.gguf.metadata import MAX_KEYS, MIN_PAIR_BYTES, MetadataValue, read_metadata
from edgellama.quant.gguf.tensors import (
    MAX_TENSORS,
    MIN_TENSOR_BYTES,
    Tensor,
    TensorEntry,
    check_layout,
    read_tensor_entries,
)
from edgellama.quant.mapped_file import FileMapping, give_back, map_file
from edgellama.quant.records import dataclass

# A header is held in memory, so a hostile one must not be as large as a model. The largest
# vocabularies come to about 20 MB.
MAX_HEADER_BYTES = 128 << 20
DEFAULT_ALIGNMENT = 32
MIN_ALIGNMENT = 8
VERSIONS = (2, 3)
MAGIC = b"GGUF"
_OTHER_FILES: Mapping[bytes, str] = MappingProxyType(
    {
        b"vers": "a Git LFS pointer: the file itself was not downloaded",
        b"PK\x03\x04": "a zip archive or a PyTorch checkpoint",
        b"<!DO": "a web page",
        b"lmgg": "a GGML file, older than GGUF",
        b"fmgg": "a GGML file, older than GGUF",
        b"tjgg": "a GGML file, older than GGUF",
    }
)


@dataclass(frozen=True)
class Part:
    """What one file holds; the tensors keep the mapping alive."""

    path: Path
    mapping: FileMapping
    version: int
    alignment: int
    file_bytes: int
    metadata: dict[str, MetadataValue]
    metadata_types: dict[str, int]
    tensors: tuple[Tensor, ...]


def read_part(path: Path) -> Part:
    """Maps and parses the file at ``path``: ModelNotFoundError, or ModelFileError if malformed."""
    buffer = map_file(path, "a GGUF file")
    cursor = Cursor(path, buffer, min(len(buffer), MAX_HEADER_BYTES))
    version = _read_version(cursor)
    num_tensors = cursor.count("the number of tensors", MIN_TENSOR_BYTES, MAX_TENSORS)
    num_keys = cursor.count("the number of metadata keys", MIN_PAIR_BYTES, MAX_KEYS)
    metadata, types = read_metadata(cursor, num_keys)
    alignment = _alignment(cursor, metadata)
    entries = read_tensor_entries(cursor, num_tensors)
    data_start = -(-cursor.position // alignment) * alignment
    check_layout(cursor, entries, alignment, len(buffer) - data_start)
    tensors = _map_tensors(buffer, entries, data_start)
    give_back(buffer, cursor.position)
    return Part(path, buffer, version, alignment, len(buffer), metadata, types, tensors)


def _read_version(cursor: Cursor) -> int:
    magic = cursor.take(len(MAGIC), "the magic number")
    if magic != MAGIC:
        kind = _OTHER_FILES.get(magic)
        note = f" ({kind})" if kind else ""
        start, right = (shown(text.decode("latin-1")) for text in (magic, MAGIC))
        raise cursor.error(f"not a GGUF file; it starts with {start}{note}", right)
    version = cursor.unsigned32("the version")
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped in (1, *VERSIONS):
        raise cursor.error(f"the file is big-endian, version {swapped}", "little-endian files")
    if version not in VERSIONS:
        raise cursor.error(f"the version is {version}", " and ".join(map(str, VERSIONS)))
    return version


def _alignment(cursor: Cursor, metadata: Mapping[str, MetadataValue]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(value, int) and value >= MIN_ALIGNMENT and value & (value - 1) == 0:
        return value
    raise cursor.error(
        f"general.alignment is {shown(value)}", f"powers of two from {MIN_ALIGNMENT}"
    )


def _map_tensors(
    buffer: FileMapping, entries: list[TensorEntry], data_start: int
) -> tuple[Tensor, ...]:
    mapped = np.frombuffer(buffer, np.uint8)
    return tuple(
        Tensor(
            entry.name,
            entry.shape,
            entry.format,
            entry.num_bytes,
            mapped[data_start + entry.offset : data_start + entry.offset + entry.num_bytes],
        )
        for entry in entries
    )
