"""The beginning of a file of saved keys and values: what they belong to, their tokens, checksums.

Nothing in it is trusted: its form is checked here, whether it fits a model by ``saved_pages``.

    offset  bytes
    0       16     magic
    16      4      version, little-endian as all numbers
    20      4      bytes of the JSON object
    24      16     BLAKE2b of all that follows up to the pages
    40      ...    JSON object, tokens of 4 bytes, CRC-32 of each page of 4 bytes
    ...            zeros up to a multiple of 65,536, where the first page begins; and so on

A page is ``PageLayout.page_bytes`` of memory as it is; the last one may be of fewer positions.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, round_up
from edgellama.quant.digests import blake2b
from edgellama.quant.error_text import shown
from edgellama.quant.errors import SessionFileError
from edgellama.quant.records import dataclass

MAGIC = b"EDGELLAMASESSION"
VERSION = 1
PREFIX = struct.Struct("<16sII16s")
MAX_JSON_BYTES = 1 << 16
MAX_NUMBER = 1 << 40
PAGE_ALIGNMENT = 1 << 16
"""A multiple of the pages of memory of all systems, so that pages can be mapped."""
TOKEN_BYTES = SUM_BYTES = 4
DAMAGED = "the file is damaged or no saved session"


@dataclass(frozen=True)
class SavedHeader:
    """What saved keys and values belong to, and their sizes.

    ``model`` is the model's identity, ``model_name`` what people call it. ``first_layer`` and
    ``num_layers``: those that the engine runs. ``origin``: that of the cache, in hexadecimal.
    ``arithmetic``: whose results they are, to the bit. Pages before ``first_page`` lie behind the
    window. ``prompt_length``: tokens of the prompt, for which positions may have been scaled.
    """

    model: str
    model_name: str
    first_layer: int
    num_layers: int
    num_heads: int
    head_size: int
    kv_type: str
    lanes: int
    origin: str
    arithmetic: str
    num_tokens: int
    first_page: int
    page_bytes: int
    prompt_length: int

    @property
    def num_pages(self) -> int:
        """Pages in the file."""
        return -(-self.num_tokens // PAGE_POSITIONS) - self.first_page


@dataclass(frozen=True)
class SavedFile:
    """A header with its tokens and the checksums of its pages, and where these are."""

    header: SavedHeader
    tokens: Sequence[int]
    sums: npt.NDArray[np.uint32]
    first_offset: int

    def page_offset(self, number: int) -> int:
        """Where page ``number`` begins, counted from the first in the file."""
        return self.first_offset + number * round_up(self.header.page_bytes, PAGE_ALIGNMENT)

    def num_whole_pages(self, file_bytes: int) -> int:
        """How many pages a file of this size holds, which may be cut off."""
        stride = round_up(self.header.page_bytes, PAGE_ALIGNMENT)
        whole = max(file_bytes - self.first_offset - self.header.page_bytes + stride, 0) // stride
        return min(self.header.num_pages, whole)


def pages_start(json_bytes: int, num_tokens: int, num_pages: int) -> int:
    """Where the first page begins."""
    head = PREFIX.size + json_bytes + TOKEN_BYTES * num_tokens + SUM_BYTES * num_pages
    return round_up(head, PAGE_ALIGNMENT)


def header_json(header: SavedHeader) -> bytes:
    """The header as a JSON object."""
    return json.dumps(asdict(header)).encode()


def write_head(
    file: BinaryIO, header: SavedHeader, tokens: Sequence[int], sums: Sequence[int]
) -> None:
    """Write all that comes before the pages to the file's start."""
    described = header_json(header)
    body = described + np.array(tokens, "<i4").tobytes() + np.array(sums, "<u4").tobytes()
    digest = blake2b(body, digest_size=16).digest()
    file.seek(0)
    file.write(PREFIX.pack(MAGIC, VERSION, len(described), digest) + body)


def read_head(file: BinaryIO, path: Path, file_bytes: int) -> SavedFile:
    """What ``write_head`` wrote; SessionFileError for anything else."""
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size or not prefix.startswith(MAGIC):
        raise SessionFileError(
            f"{path}: no saved session; its first bytes are {shown(prefix[:16])}"
        )
    _, version, json_bytes, digest = PREFIX.unpack(prefix)
    if version != VERSION:
        raise SessionFileError(f"{path}: version {version} of the format; allowed: {VERSION}")
    if json_bytes > min(MAX_JSON_BYTES, file_bytes):
        raise SessionFileError(f"{path}: a header of {json_bytes} bytes; {DAMAGED}")
    described = file.read(json_bytes)
    header = _parsed(described, path)
    rest_bytes = TOKEN_BYTES * header.num_tokens + SUM_BYTES * header.num_pages
    if PREFIX.size + json_bytes + rest_bytes > file_bytes:
        raise SessionFileError(f"{path}: the file ends within its {header.num_tokens} tokens")
    rest = file.read(rest_bytes)
    if blake2b(described + rest, digest_size=16).digest() != digest:
        raise SessionFileError(f"{path}: its header does not match its checksum; {DAMAGED}")
    tokens = np.frombuffer(rest, "<i4", header.num_tokens)
    sums = np.frombuffer(rest, "<u4", offset=tokens.nbytes).astype(np.uint32)
    first_offset = pages_start(json_bytes, header.num_tokens, header.num_pages)
    return SavedFile(header, tokens.tolist(), sums, first_offset)


def _parsed(described: bytes, path: Path) -> SavedHeader:
    try:
        content = json.loads(described)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise SessionFileError(f"{path}: a header that is no JSON object; {DAMAGED}")
    values: dict[str, Any] = {field.name: content.get(field.name) for field in fields(SavedHeader)}
    for field in fields(SavedHeader):
        value = values[field.name]
        is_number = type(value) is int and 0 <= value <= MAX_NUMBER
        if not (isinstance(value, str) if field.type == "str" else is_number):
            raise SessionFileError(f"{path}: {field.name} is {shown(value)}; {DAMAGED}")
    header = SavedHeader(**values)
    if header.num_pages < 1 or not header.page_bytes:
        raise SessionFileError(f"{path}: it holds {header.num_tokens} tokens; {DAMAGED}")
    return header
