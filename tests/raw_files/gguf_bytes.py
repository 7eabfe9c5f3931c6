"""GGUF files as raw bytes, right or wrong on purpose, which no well-behaved writer would write."""

import struct
from collections.abc import Sequence
from pathlib import Path

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = range(10)
UINT64, INT64, FLOAT64 = range(10, 13)
F32, F16, Q4_0 = range(3)


def u32(number: int) -> bytes:
    """A little-endian uint32."""
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    """A little-endian uint64."""
    return struct.pack("<Q", number)


def string(text: str | bytes, num_bytes: int | None = None) -> bytes:
    """A string behind its length, or behind the lie ``num_bytes``."""
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw) if num_bytes is None else num_bytes) + raw


def strings(items: Sequence[str | bytes]) -> bytes:
    """The value of an array of strings, type and count included."""
    return u32(STRING) + u64(len(items)) + b"".join(string(item) for item in items)


def pair(key: str | bytes, type_id: int, value: bytes) -> bytes:
    """A metadata pair."""
    return string(key) + u32(type_id) + value


def entry(
    name: str | bytes,
    sizes: Sequence[int] = (8,),
    format_id: int = F32,
    offset: int = 0,
    num_dimensions: int | None = None,
) -> bytes:
    """A line of the tensor table; ``sizes`` in the file's order, columns first."""
    count = len(sizes) if num_dimensions is None else num_dimensions
    return string(name) + u32(count) + b"".join(map(u64, sizes)) + u32(format_id) + u64(offset)


def model(
    pairs: Sequence[bytes] = (),
    entries: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_pairs: int | None = None,
    num_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file; the counts may lie, and the data starts at a multiple of ``alignment``."""
    header = magic + u32(version)
    header += u64(len(entries) if num_tensors is None else num_tensors)
    header += u64(len(pairs) if num_pairs is None else num_pairs)
    header += b"".join(pairs) + b"".join(entries)
    return header + bytes(-len(header) % alignment) + data


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    """``content`` as a file in ``folder``."""
    path = folder / name
    path.write_bytes(content)
    return path
