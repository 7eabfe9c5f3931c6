"""The architecture of a GGUF file from its first bytes, for a look before the file is opened.

Writers state it as the first key. Nothing else is read, and nothing is refused: ``file`` does that.
"""

from __future__ import annotations

import struct
from pathlib import Path

_KEY, _STRING = b"general.architecture", 8
_START = struct.Struct(f"<4sIqqQ{len(_KEY)}sIQ")
"""Magic, version, counts of tensors and keys; the first key, and its text's type and length."""
_LONGEST_NAME = 64


def stated_architecture(path: Path) -> str | None:
    """What the file's first key says; None for a file that does not begin as GGUF files do."""
    try:
        with path.open("rb") as file:
            head = file.read(_START.size + _LONGEST_NAME)
    except OSError:
        return None
    if len(head) < _START.size:
        return None
    magic, _, _, _, key_length, key, kind, length = _START.unpack_from(head)
    if (magic, key_length, key, kind) != (b"GGUF", len(_KEY), _KEY, _STRING):
        return None
    name = head[_START.size : _START.size + length]
    return name.decode("utf-8", "replace") if len(name) == length else None
