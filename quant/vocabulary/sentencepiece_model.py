"""Writes a vocabulary as the SentencePiece model that it was taken from.

It knows the protocol buffer format of ``sentencepiece_model.proto`` as far as needed (three
messages, numbered fields), and what the library refuses. The tokenizer uses the model; the
converter makes it only to see that it can be made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgellama.quant.errors import TokenizerError
from edgellama.quant.vocabulary.added_tokens import AddedTokenRules
from edgellama.quant.vocabulary.space_rules import REMOVES_SPACES_KEY
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary, flag

SPACE_SYMBOL = "\N{LOWER ONE EIGHTH BLOCK}".encode()
CHARSMAP_KEY = "tokenizer.ggml.precompiled_charsmap"
_BYTE_PIECE = re.compile(rb"<0x[0-9A-F]{2}>")
_UNIGRAM_MODEL, _BYTE_PAIR_MODEL = 1, 2


def model_proto(
    vocabulary: Vocabulary,
    *,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
    unigram: bool = False,
    charsmap: bytes = b"",
    unknown_id: int | None = None,
    rules: AddedTokenRules | None = None,
) -> bytes:
    """The serialized model: pieces in id order, byte pair encoding unless ``unigram``.

    ``charsmap``: how characters are normalized, as the library compiled it; empty for not at all.
    ``unknown_id``: the unknown piece of a vocabulary that types none so. ``rules``: which
    tokens are taken out of the text before, so that the library must not look for them.
    """
    byte_fallback = _has_byte_fallback(vocabulary)
    texts, types = _loadable_pieces(vocabulary, unknown_id, rules or AddedTokenRules())
    trainer = b"".join(
        (
            _varint_field(3, _UNIGRAM_MODEL if unigram else _BYTE_PAIR_MODEL),
            _varint_field(4, len(texts)),
            _varint_field(35, byte_fallback),
            _varint_field(40, types.index(TokenType.UNKNOWN)),
        )
    )
    normalizer = b"".join(
        (
            _bytes_field(1, b"custom" if charsmap else b"identity"),
            _bytes_field(2, charsmap),
            _varint_field(3, add_space_prefix),
            _varint_field(4, remove_extra_whitespaces),
            _varint_field(5, True),
        )
    )
    pieces = _pieces(texts, types, vocabulary.scores.astype("<f4").tobytes())
    return pieces + _bytes_field(2, trainer) + _bytes_field(3, normalizer)


def processor(proto: bytes) -> Any:
    """The library's processor of a serialized model; TokenizerError if it refuses it."""
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise TokenizerError(f"sentencepiece refuses the vocabulary: {error}") from error


def model_maker(
    metadata: Mapping[str, object], vocabulary: Vocabulary, unknown_id: int | None
) -> Callable[[bool], bytes]:
    """Make the serialized model that the metadata's settings and the vocabulary say.

    Whether the library puts a space before text is left to the caller. The metadata are not
    held on to.
    """
    rules = AddedTokenRules.from_metadata(metadata, len(vocabulary.tokens))
    removes_spaces = flag(metadata, REMOVES_SPACES_KEY, False)
    unigram = metadata.get("tokenizer.ggml.model") == "t5"
    charsmap = _charsmap(metadata)

    def make(add_space_prefix: bool) -> bytes:
        return model_proto(
            vocabulary,
            add_space_prefix=add_space_prefix,
            remove_extra_whitespaces=removes_spaces,
            unigram=unigram,
            charsmap=charsmap,
            unknown_id=unknown_id,
            rules=rules,
        )

    return make


def _charsmap(metadata: Mapping[str, object]) -> bytes:
    """How characters are normalized; empty if the file does not say."""
    values = metadata.get(CHARSMAP_KEY)
    if values is None:
        return b""
    if not isinstance(values, np.ndarray) or values.dtype not in (np.uint8, np.int8):
        raise TokenizerError(f"{CHARSMAP_KEY} is no array of bytes")
    return values.tobytes()


def _pieces(texts: list[bytes], types: bytes, scores: bytes) -> bytes:
    """The pieces in id order; ``scores`` are four bytes each, as the format writes them."""
    heads = {length: _piece_head(length) for length in set(map(len, texts))}
    tails = {kind: _varint_field(3, kind) for kind in set(types)}
    parts = (
        heads[len(text)] + text + b"\x15" + scores[4 * i : 4 * i + 4] + tails[types[i]]
        for i, text in enumerate(texts)
    )
    return b"".join(parts)


def _piece_head(text_length: int) -> bytes:
    """What precedes a piece's text: the tags and lengths of the piece and of the text."""
    text_head = _varint(1 << 3 | 2) + _varint(text_length)
    score_and_type_bytes = 5 + 2
    return (
        _varint(1 << 3 | 2)
        + _varint(len(text_head) + text_length + score_and_type_bytes)
        + text_head
    )


def _has_byte_fallback(vocabulary: Vocabulary) -> bool:
    """Whether all 256 bytes are pieces; an error where only some are."""
    found = {vocabulary.tokens[token] for token in vocabulary.ids_of(TokenType.BYTE)}
    if not found:
        return False
    bad = [piece for piece in found if not _BYTE_PIECE.fullmatch(piece)]
    if bad:
        raise TokenizerError(f"byte token {bad[0]!r}; <0x00> to <0xFF>")
    if len(found) != 256:
        raise TokenizerError(f"{len(found)} different byte tokens; 256 or none")
    return True


def _loadable_pieces(
    vocabulary: Vocabulary, unknown_id: int | None, rules: AddedTokenRules
) -> tuple[list[bytes], bytes]:
    """Texts and types as the library accepts them: distinct, not empty, one unknown piece.

    What it would refuse becomes an unused piece under a name of its own. User-defined tokens
    that converters write with spaces get the space symbol, without which the library never
    finds them.
    """
    texts, types = list(vocabulary.tokens), bytearray(vocabulary.types)
    for token in rules.added:
        if types[token] == TokenType.USER_DEFINED:
            types[token] = TokenType.CONTROL
    for token in rules.piece:
        if types[token] == TokenType.CONTROL:
            types[token] = TokenType.NORMAL
    seen: set[bytes] = set()
    for token, text in enumerate(texts):
        if types[token] == TokenType.USER_DEFINED:
            text = texts[token] = text.replace(b" ", SPACE_SYMBOL)
        if not text or text in seen or b"\0" in text:
            texts[token], types[token] = f"\uffff{token}".encode(), TokenType.UNUSED
        seen.add(text)
    unknown = [token for token, kind in enumerate(types) if kind == TokenType.UNKNOWN]
    if not unknown and unknown_id is not None and types[unknown_id] == TokenType.CONTROL:
        types[unknown_id] = TokenType.UNKNOWN
        unknown = [unknown_id]
    if not unknown:
        raise TokenizerError("no token has the type unknown (2); SentencePiece needs one")
    for token in unknown[1:]:
        types[token] = TokenType.CONTROL
    return texts, bytes(types)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value
