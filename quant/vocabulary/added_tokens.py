"""Tokens that are looked for in a text before it is cut, with their rules: keys of our own in GGUF.

The rules are those of Hugging Face's added tokens, for which GGUF has no keys. The converter writes
them, and the tokenizer looks for the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from edgellama.quant.errors import TokenizerError
from edgellama.quant.records import dataclass

PREFIX = "edgellama.tokenizer."
NORMALIZER_KEY = f"{PREFIX}added_token_normalizer"
NORMALIZERS = ("", "replace", "prepend")
"""What text goes through before ``normalized`` tokens are looked for in it: nothing, spaces
become the space symbol, or the same behind one more space symbol."""


@dataclass(frozen=True)
class AddedTokenRules:
    """Ids by rule. A field's name, with ``_token_ids`` behind it, is the key.

    ``added``: user-defined tokens of SentencePiece that are looked for in the text itself, not
    by the library. ``piece`` ones are words of the vocabulary, too: merging makes them of a text
    in which they were not found. ``lstrip`` and ``rstrip`` ones take the white space before and
    behind; ``single_word`` ones stand between no letters; ``normalized`` ones are looked for when
    all others are found.
    """

    added: frozenset[int] = frozenset()
    piece: frozenset[int] = frozenset()
    lstrip: frozenset[int] = frozenset()
    rstrip: frozenset[int] = frozenset()
    single_word: frozenset[int] = frozenset()
    normalized: frozenset[int] = frozenset()
    normalizer: str = ""

    def __post_init__(self) -> None:
        if self.normalizer not in NORMALIZERS:
            raise TokenizerError(
                f"{NORMALIZER_KEY} is {self.normalizer!r:.80}; one of {', '.join(NORMALIZERS[1:])}"
            )

    def ids_by_key(self) -> dict[str, frozenset[int]]:
        """The ids under each key that has any."""
        found = {_key(name): getattr(self, name) for name in _ID_FIELDS}
        return {key: ids for key, ids in found.items() if ids}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], vocab_size: int) -> AddedTokenRules:
        """The rules in a file's metadata; none if it has none of the keys."""
        ids = {name: _ids(metadata, _key(name), vocab_size) for name in _ID_FIELDS}
        return cls(**ids, normalizer=str(metadata.get(NORMALIZER_KEY, "")))


_ID_FIELDS = tuple(field.name for field in fields(AddedTokenRules) if field.name != "normalizer")


def _key(name: str) -> str:
    return f"{PREFIX}{name}_token_ids"


def _ids(metadata: Mapping[str, object], key: str, vocab_size: int) -> frozenset[int]:
    values = metadata.get(key)
    if values is None:
        return frozenset()
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TokenizerError(f"{key} is no array of token ids")
    if array.size and not 0 <= array.min() <= array.max() < vocab_size:
        bad = array[(array < 0) | (array >= vocab_size)][0]
        raise TokenizerError(f"{key} holds {bad}; 0 to {vocab_size - 1}")
    return frozenset(array.tolist())
