"""The table of a zip archive whose members are stored uncompressed: where the bytes of each lie.

Nothing is decompressed or copied, so the archive's claims cost no memory; a compressed member is
refused. ``torch_reader`` knows what the members hold.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgellama.quant.error_text import file_error, shown

MAX_MEMBERS = 262_144
MAX_DIRECTORY_BYTES = 64 << 20
_WAY_OUT = "members that are stored as they are; load the file with torch and save it again"

_END = struct.Struct("<4s4H2IH")  # end of central directory
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<8x2H8x2I3H8xI")  # of the central directory
_ENTRY_MARK = b"PK\1\2"
_LOCAL = struct.Struct("<26x2H")  # of a member: the bytes of its name and of its extra field
_MAX_COMMENT_BYTES = 65535
_ENCRYPTED = 1
_UNKNOWN_32 = 0xFFFFFFFF  # the value is in the zip64 field
_ZIP64_FIELD = 1


class _Entry(NamedTuple):
    """The fields of a member's entry in the directory that are used, in their order."""

    flags: int
    method: int
    packed_size: int
    size: int
    name_bytes: int
    extra_bytes: int
    comment_bytes: int
    header_start: int


@dataclass(frozen=True)
class Member:
    """A member's bytes in the archive."""

    start: int
    num_bytes: int


def read_zip_directory(path: Path, buffer: mmap.mmap) -> dict[str, Member]:
    """Every member by name; ModelFileError unless each lies in the file, uncompressed.

    Only the directory and the members' own headers are read.
    """
    start, num_bytes, count = _find_directory(path, buffer)
    if count > MAX_MEMBERS or num_bytes > MAX_DIRECTORY_BYTES or start + num_bytes > len(buffer):
        raise file_error(
            path,
            f"the zip directory has {count} members and {num_bytes} bytes at {start}",
            f"at most {MAX_MEMBERS} and {min(MAX_DIRECTORY_BYTES, len(buffer))}",
        )
    if hasattr(buffer, "madvise"):
        # The members' headers lie all over the file: reading ahead of each would read much of it.
        buffer.madvise(mmap.MADV_RANDOM)
    members: dict[str, Member] = {}
    for name, local, size in _entries(path, buffer[start : start + num_bytes], count):
        if name in members:
            raise file_error(path, f"zip member {shown(name)} is there twice", "each name once")
        members[name] = _locate(path, buffer, name, local, size)
    if hasattr(buffer, "madvise"):
        buffer.madvise(mmap.MADV_NORMAL)
    return members


def _find_directory(path: Path, buffer: mmap.mmap) -> tuple[int, int, int]:
    """Where the directory starts, its bytes, and how many members it lists."""
    tail_start = max(0, len(buffer) - _END.size - _MAX_COMMENT_BYTES)
    end = buffer.rfind(b"PK\5\6", tail_start)
    if end < 0 or end + _END.size > len(buffer):
        raise file_error(path, "the zip archive has no directory", "whole files: was it cut off?")
    _, _, _, _, count, num_bytes, start, _ = _END.unpack_from(buffer, end)
    locator = end - _LOCATOR_64.size
    if locator >= 0 and buffer[locator : locator + 4] == b"PK\6\7":
        end_64 = _LOCATOR_64.unpack_from(buffer, locator)[2]
        if end_64 + _END_64.size > locator or buffer[end_64 : end_64 + 4] != b"PK\6\6":
            raise file_error(path, f"the zip64 directory's end at {end_64} is none", "whole files")
        *_, count, num_bytes, start = _END_64.unpack_from(buffer, end_64)
    return start, num_bytes, count


def _entries(path: Path, directory: bytes, count: int) -> Iterator[tuple[str, int, int]]:
    """Name, place of the local header and size of each member."""
    position = 0
    for index in range(count):
        is_whole = position + _ENTRY.size <= len(directory)
        if not is_whole or not directory.startswith(_ENTRY_MARK, position):
            raise file_error(path, f"zip member {index} of {count} is no entry", "whole files")
        entry = _Entry(*_ENTRY.unpack_from(directory, position))
        name_start = position + _ENTRY.size
        extra_start = name_start + entry.name_bytes
        extra_end = extra_start + entry.extra_bytes
        name = directory[name_start:extra_start].decode("utf-8", "replace")
        size, packed_size, header_start = _widen(
            directory[extra_start:extra_end], (entry.size, entry.packed_size, entry.header_start)
        )
        if entry.method or packed_size != size or entry.flags & _ENCRYPTED:
            raise file_error(path, f"zip member {shown(name)} is compressed", _WAY_OUT)
        yield name, header_start, size
        position = extra_end + entry.comment_bytes


def _widen(extra: bytes, values: tuple[int, int, int]) -> list[int]:
    """``values``, those that 32 bits cannot hold taken from the zip64 field in their order."""
    wide: list[int] = []
    position = 0
    while position + 4 <= len(extra):
        field, num_bytes = struct.unpack_from("<2H", extra, position)
        if field == _ZIP64_FIELD:
            content = extra[position + 4 : position + 4 + num_bytes]
            wide = [number for (number,) in struct.iter_unpack("<Q", content[: len(content) & ~7])]
        position += 4 + num_bytes
    return [wide.pop(0) if value == _UNKNOWN_32 and wide else value for value in values]


def _locate(path: Path, buffer: mmap.mmap, name: str, local: int, size: int) -> Member:
    what = f"zip member {shown(name)}"
    if local + _LOCAL.size > len(buffer) or buffer[local : local + 4] != b"PK\3\4":
        raise file_error(path, f"{what} is not at byte {local}", "whole files")
    name_bytes, extra_bytes = _LOCAL.unpack_from(buffer, local)
    start: int = local + _LOCAL.size + name_bytes + extra_bytes
    if start + size > len(buffer):
        raise file_error(
            path, f"{what} has {size} bytes at {start}", f"the file ends by byte {len(buffer)}"
        )
    return Member(start, size)
