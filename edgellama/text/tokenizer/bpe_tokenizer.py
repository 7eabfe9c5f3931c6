"""Byte-level BPE from GGUF metadata (``tokenizer.ggml.model`` = ``gpt2``).

Text is cut into words by the model's split pattern, each word is merged, and merged words
are remembered. Bytes that the vocabulary lacks are dropped, as Hugging Face's BPE does.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgellama.quant.errors import TokenizerError
from edgellama.quant.vocabulary.special_tokens import read_special_tokens
from edgellama.quant.vocabulary.vocabulary import (
    MERGES,
    TokenType,
    Vocabulary,
    check_merges,
    string_bytes,
)
from edgellama.text.tokenizer.base import Tokenizer
from edgellama.text.tokenizer.byte_pair_merge import BytePairMerger, byte_symbols
from edgellama.text.tokenizer.split_patterns import splitter_for

MAX_REMEMBERED_WORDS = 1 << 16
MAX_REMEMBERED_WORD_LENGTH = 64
# Text never merges into these, so a look-alike of a control token stays text.
_NEVER_FROM_TEXT = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.UNUSED)


class BPETokenizer(Tokenizer):
    """Byte-level BPE that follows the model's own list of merges."""

    matched_types = (TokenType.USER_DEFINED,)

    def __init__(self, metadata: Mapping[str, object]) -> None:
        vocabulary = Vocabulary.from_metadata(metadata)
        pre = metadata.get("tokenizer.ggml.pre", "default")
        if not isinstance(pre, str):
            raise TokenizerError(f"tokenizer.ggml.pre is {pre!r}; a string")
        self._splitter = splitter_for(pre)
        special = read_special_tokens(
            metadata, vocabulary, add_bos_default=self._splitter.adds_bos, names={}
        )
        super().__init__(vocabulary, special)
        self._symbols = byte_symbols()
        self._bytes_by_symbol = {symbol.decode(): byte for byte, symbol in enumerate(self._symbols)}
        self._token_ids = _token_ids(vocabulary)
        check_merges(metadata)
        self._merger = BytePairMerger(self._token_ids, lambda: string_bytes(metadata, MERGES))
        self._remembered: dict[str, list[int]] = {}

    def _encode_text(self, text: str) -> list[int]:
        tokens: list[int] = []
        for word in self._splitter.split(text):
            found = self._remembered.get(word)
            if found is None:
                found = self._encode_word(word)
                if len(word) <= MAX_REMEMBERED_WORD_LENGTH:
                    if len(self._remembered) >= MAX_REMEMBERED_WORDS:
                        self._remembered = {}
                    self._remembered[word] = found
            tokens += found
        return tokens

    def _encode_word(self, word: str) -> list[int]:
        ids, table = self._token_ids, self._symbols
        symbols = [table[byte] for byte in word.encode()]
        if self._splitter.takes_whole_words:
            whole = ids.get(b"".join(symbols))
            if whole is not None:
                return [whole]
        known = [symbol for symbol in symbols if symbol in ids]
        return [ids[part] for part in self._merger.merge(known)]

    def _plain_bytes(self, token: int, token_type: int) -> bytes:
        raw = self._vocabulary.tokens[token]
        if token_type in (TokenType.USER_DEFINED, TokenType.UNKNOWN):
            return raw
        try:
            return bytes(map(self._bytes_by_symbol.__getitem__, self._vocabulary.text(token)))
        except KeyError:
            return raw  # added by a converter as plain text


def _token_ids(vocabulary: Vocabulary) -> dict[bytes, int]:
    """Ids of the tokens that text can become; the later of two equal texts counts."""
    token_ids = dict(zip(vocabulary.tokens, range(len(vocabulary.tokens)), strict=True))
    for token in vocabulary.ids_of(*_NEVER_FROM_TEXT):
        token_ids.pop(vocabulary.tokens[token], None)
    return token_ids
