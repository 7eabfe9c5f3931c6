"""A SentencePiece ``tokenizer.model``: its pieces, and the settings that change how text is cut.

It reads the protocol buffer of ``sentencepiece_model.proto`` as far as needed, and checks every
length. ``sentencepiece_vocabulary`` knows what becomes of the pieces.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from edgellama.convert.sources.json_fields import read_file
from edgellama.convert.vocabulary.vocabulary import Token
from edgellama.quant.errors import ModelFileError
from edgellama.quant.vocabulary.vocabulary import TokenType

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KIND = "a SentencePiece model"
MAX_PIECES = 1 << 19
"""Twice those of the largest vocabularies; each takes microseconds to read."""


class ModelType(IntEnum):
    """How pieces are chosen; the numbers are those of the format."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class SentencePieceFile:
    """A model: pieces in id order, ids by role, and its normalizer's settings."""

    path: Path
    pieces: tuple[Token, ...]
    model_type: ModelType
    special_ids: dict[str, int]
    adds_space_prefix: bool
    removes_extra_spaces: bool
    charsmap: bytes


def read_sentencepiece(path: Path) -> SentencePieceFile:
    """The model in a file; ModelFileError if it is none, or damaged."""
    try:
        return _parse(path, read_file(path, _KIND))
    except _Malformed as error:
        raise ModelFileError(f"{path}: is damaged, {error}; allowed: {_KIND}") from None


class _Malformed(Exception):
    """Why the bytes are no such message."""


def _parse(path: Path, data: bytes) -> SentencePieceFile:
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _message(data):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
            if len(pieces) > MAX_PIECES:
                raise _Malformed(f"it has more than {MAX_PIECES} pieces")
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_message(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_message(value))
    if not pieces:
        raise _Malformed("it has no pieces")
    model_type = trainer.get(3, ModelType.UNIGRAM)
    if not isinstance(model_type, int) or model_type not in list(ModelType):
        raise _Malformed(f"its model type is {model_type!r:.40}")
    charsmap = normalizer.get(2, b"")
    return SentencePieceFile(
        path=path,
        pieces=tuple(pieces),
        model_type=ModelType(model_type),
        special_ids=_special_ids(trainer, len(pieces)),
        adds_space_prefix=bool(normalizer.get(3, True)),
        removes_extra_spaces=bool(normalizer.get(4, True)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
    )


def _special_ids(trainer: dict[int, int | bytes], num_pieces: int) -> dict[str, int]:
    """Ids by role; a negative number, written as an unsigned one, is a role without a token."""
    fields = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}
    ids = {}
    for role, (number, default) in fields.items():
        value = trainer.get(number, default)
        if isinstance(value, int) and 0 <= value < num_pieces:
            ids[role] = value
    return ids


def _piece(data: bytes) -> Token:
    fields = dict(_message(data))
    text, score, kind = fields.get(1, b""), fields.get(2, b"\0\0\0\0"), fields.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise _Malformed("a piece has a text or a score of another type")
    if not isinstance(kind, int) or kind not in list(TokenType):
        raise _Malformed(f"a piece has the type {kind!r:.40}")
    (number,) = struct.unpack("<f", score)
    if not math.isfinite(number):
        raise _Malformed(f"a piece has the score {number}")
    try:
        return Token(text.decode(), TokenType(kind), number)
    except UnicodeDecodeError:
        raise _Malformed(f"the piece {text[:40]!r} is not UTF-8") from None


def _message(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values; four and eight byte numbers as their bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _varint(data, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise _Malformed(f"a field of kind {kind} at byte {position}")
        if length > len(data) - position:
            raise _Malformed(f"a field of {length} bytes at byte {position} runs past the end")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise _Malformed("it ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Malformed(f"a number of more than 64 bits at byte {position}")
