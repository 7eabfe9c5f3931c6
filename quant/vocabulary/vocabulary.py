"""The vocabulary of a GGUF file: token texts, types and scores, checked once.

It knows the ``tokenizer.ggml.*`` arrays and nothing of how text becomes tokens. Texts stay
bytes, because decoding 128 thousand strings costs more than all the rest of start-up.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgellama.quant.errors import TokenizerError
from edgellama.quant.gguf.strings import RawStrings, StringArray
from edgellama.quant.records import dataclass
from edgellama.quant.vocabulary.control_names import control_by_name
from edgellama.quant.vocabulary.string_index import StringIndex

SENTENCEPIECE_KINDS = ("llama", "t5")
BYTE_PAIR_KIND = "gpt2"
"""Values of ``tokenizer.ggml.model`` that run."""
MERGES = "tokenizer.ggml.merges"


class TokenType(IntEnum):
    """What a token is; the numbers are those of GGUF and of SentencePiece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Token texts as UTF-8 (as the file writes them), types and scores, all by token id.

    ``index`` tells where texts stand among the tokens.
    """

    tokens: Sequence[bytes]
    types: bytes
    scores: NDArray[np.float32]
    has_types: bool
    index: StringIndex

    def __post_init__(self) -> None:
        if not self.tokens:
            raise TokenizerError("tokenizer.ggml.tokens is empty; at least one token")
        if not len(self.tokens) == len(self.types) == len(self.scores):
            raise TokenizerError(
                f"{len(self.tokens)} tokens, {len(self.types)} token types and "
                f"{len(self.scores)} scores; the counts must be equal"
            )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Vocabulary:
        """Read ``tokens``, ``token_type`` and ``scores``; the latter two may be absent.

        The well-known marks of chat formats are control tokens whatever type the file gives them.
        """
        tokens = string_bytes(metadata, "tokenizer.ggml.tokens")
        given = metadata.get("tokenizer.ggml.token_type")
        types = bytes([TokenType.NORMAL]) * len(tokens) if given is None else _types(given)
        scores = metadata.get("tokenizer.ggml.scores")
        index = StringIndex(tokens)
        if len(types) == len(tokens):
            types = control_by_name(
                index,
                types,
                word=TokenType.NORMAL,
                others=(TokenType.USER_DEFINED, TokenType.UNUSED),
                control=TokenType.CONTROL,
            )
        return cls(
            tokens=tokens,
            types=types,
            scores=np.zeros(len(tokens), np.float32) if scores is None else _scores(scores),
            has_types=given is not None,
            index=index,
        )

    @cached_property
    def longest_bytes(self) -> int:
        """Bytes of the longest token."""
        if isinstance(self.tokens, RawStrings):
            return int(self.tokens.lengths().max())
        return max(map(len, self.tokens))

    def ids_of(self, *types: TokenType) -> list[int]:
        """Ids of the tokens of these types, ascending."""
        array = np.frombuffer(self.types, np.uint8)
        ids: list[int] = np.flatnonzero(np.isin(array, types)).tolist()
        return ids

    def text(self, token: int) -> str:
        """A token as the file writes it; bytes that are not UTF-8 become surrogates."""
        return self.tokens[token].decode("utf-8", "surrogateescape")


def string_bytes(metadata: Mapping[str, object], key: str) -> Sequence[bytes]:
    """An array of strings as UTF-8, from a lazily decoded array or any sequence of str."""
    strings = metadata.get(key)
    if strings is None:
        raise TokenizerError(f"{key} is missing; the model file has no complete tokenizer")
    if isinstance(strings, StringArray):
        return strings.in_place()
    if isinstance(strings, str) or not isinstance(strings, Sequence):
        raise TokenizerError(f"{key} is a {type(strings).__name__}; an array of strings")
    try:
        return [string.encode("utf-8", "surrogateescape") for string in strings]
    except AttributeError:
        raise TokenizerError(f"{key} has items that are not strings") from None


def check_merges(metadata: Mapping[str, object]) -> None:
    """TokenizerError for a byte-pair vocabulary that comes without its merges."""
    if MERGES not in metadata:
        raise TokenizerError(f"{MERGES} is missing; {BYTE_PAIR_KIND} tokenizers need it")


def token_id(metadata: Mapping[str, object], key: str, vocab_size: int) -> int | None:
    """The token id under a key, or None if the key is absent."""
    value = metadata.get(key)
    if value is None:
        return None
    try:
        token = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TokenizerError(f"{key} is {value!r}; a token id") from None
    if not 0 <= token < vocab_size:
        raise TokenizerError(f"{key} is {token}; 0 to {vocab_size - 1}")
    return token


def flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    """The boolean under a key, or the default where the key is absent."""
    value = metadata.get(key, default)
    if not isinstance(value, (bool, np.bool_)):
        raise TokenizerError(f"{key} is {value!r}; true or false")
    return bool(value)


def _types(values: object) -> bytes:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TokenizerError("tokenizer.ggml.token_type is no array of integers")
    if array.size and not TokenType.NORMAL <= array.min() <= array.max() <= TokenType.BYTE:
        bad = array[(array < TokenType.NORMAL) | (array > TokenType.BYTE)][0]
        raise TokenizerError(f"tokenizer.ggml.token_type holds {bad}; 1 to 6")
    return array.astype(np.uint8).tobytes()


def _scores(values: object) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise TokenizerError("tokenizer.ggml.scores is no array of numbers")
    scores = array.astype(np.float32)
    if not np.isfinite(scores).all():
        raise TokenizerError("tokenizer.ggml.scores holds a value that is not finite")
    return scores
