"""Byte-level BPE from GGUF metadata (``tokenizer.ggml.model`` = ``gpt2``).

Text is cut into words by the model's split pattern, each word is merged, and merged words
are remembered. Bytes that the vocabulary lacks are dropped, as Hugging Face's BPE does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property

from edgellama.quant.vocabulary.added_tokens import AddedTokenRules
from edgellama.quant.vocabulary.file_pattern import (
    DEFAULT_PATTERN,
    declared_pattern,
    recognised_pattern,
)
from edgellama.quant.vocabulary.special_tokens import read_special_tokens
from edgellama.quant.vocabulary.vocabulary import (
    MERGES,
    TokenType,
    Vocabulary,
    check_merges,
    string_bytes,
)
from edgellama.quant.ways import Way, command_line
from edgellama.text.tokenizer.added_tokens import Stretch
from edgellama.text.tokenizer.base import Tokenizer
from edgellama.text.tokenizer.byte_pair_merge import (
    MAX_SYMBOLS_AT_ONCE,
    BytePairMerger,
    byte_symbols,
)
from edgellama.text.tokenizer.split_patterns import Splitter, split_rule

_log = logging.getLogger(__name__)
MAX_REMEMBERED_WORDS = 1 << 16
MAX_REMEMBERED_WORD_LENGTH = 64
MAX_REMEMBERED_TEXTS = 1 << 15
# Text never merges into these, so a look-alike of a control token stays text.
_NEVER_FROM_TEXT = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.UNUSED)


class BPETokenizer(Tokenizer):
    """Byte-level BPE that follows the model's own list of merges."""

    matches_user_defined = True

    def __init__(self, metadata: Mapping[str, object], source: object = None) -> None:
        """``source``: the file's path, which messages name."""
        vocabulary = Vocabulary.from_metadata(metadata)
        rule = split_rule(_pattern_name(metadata, vocabulary, source))
        self._splitter = Splitter(rule)
        self._takes_whole_words = rule.takes_whole_words
        special = read_special_tokens(metadata, vocabulary, add_bos_default=rule.adds_bos, names={})
        rules = AddedTokenRules.from_metadata(metadata, len(vocabulary.tokens))
        super().__init__(vocabulary, special, rules)
        self._symbols = byte_symbols()
        self._bytes_by_symbol = {symbol.decode(): byte for byte, symbol in enumerate(self._symbols)}
        self._token_ids = TokenIds(vocabulary, rules)
        check_merges(metadata)
        self._merger = BytePairMerger(self._token_ids, lambda: string_bytes(metadata, MERGES))
        self._remembered: dict[str, list[int]] = {}

    def _encode_text(self, stretch: Stretch) -> list[int]:
        tokens: list[int] = []
        check = self._current_check
        for word in self._splitter.split(stretch.text):
            check()
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
        ids, table, data = self._token_ids, self._symbols, word.encode()
        if len(data) > max(MAX_SYMBOLS_AT_ONCE, self._longest_token_bytes):
            known_bytes = data.translate(None, self._lacked_bytes)
            merged = self._merger.merge_giant(known_bytes, table, self._current_check)
            return [token for token in map(ids.get, merged) if token is not None]
        symbols = [table[byte] for byte in data]
        if self._takes_whole_words:
            whole = ids.get(b"".join(symbols))
            if whole is not None:
                return [whole]
        known = [symbol for symbol in symbols if ids.get(symbol) is not None]
        found = map(ids.get, self._merger.merge(known))
        return [token for token in found if token is not None]

    def _num_kept_bytes(self, text: str) -> int:
        return len(text.encode(errors="replace").translate(None, self._lacked_bytes))

    @cached_property
    def _lacked_bytes(self) -> bytes:
        return bytes(b for b, symbol in enumerate(self._symbols) if symbol not in self._token_ids)

    def _plain_bytes(self, token: int, token_type: int) -> bytes:
        raw = self._vocabulary.tokens[token]
        if token_type in (TokenType.USER_DEFINED, TokenType.UNKNOWN):
            return raw
        try:
            return bytes(map(self._bytes_by_symbol.__getitem__, self._vocabulary.text(token)))
        except KeyError:
            return raw  # added by a converter as plain text


def _pattern_name(metadata: Mapping[str, object], vocabulary: Vocabulary, source: object) -> str:
    """The split pattern's name; where the file is silent, that is said."""
    name = declared_pattern(metadata)
    if name not in (None, DEFAULT_PATTERN):
        return name
    file = "the model file" if source is None else source
    found = recognised_pattern(metadata, vocabulary.tokens)
    if found is not None:
        state = "missing" if name is None else repr(name)
        _log.warning(
            "%s: tokenizer.ggml.pre is %s; the vocabulary is Llama 3's, so it is taken as %s",
            *(file, state, found),
        )
        return found
    if name is not None:
        return name
    path = "FILE" if source is None else repr(str(source))
    call = f'edgellama.convert.convert({path}, "new.gguf", type="copy", pre="llama-bpe")'
    command = command_line("convert", file, "new.gguf", "--type", "copy", "--pre", "llama-bpe")
    _log.warning(
        "%s: tokenizer.ggml.pre is missing, so text is cut into words in a way that is seldom the "
        "model's own, and answers get worse; if it was made from Llama 3, repair it: %s",
        *(file, Way(call, command)),
    )
    return DEFAULT_PATTERN


class TokenIds:
    """Ids of the tokens that text can become, by their texts; the later of two equal ones."""

    def __init__(self, vocabulary: Vocabulary, rules: AddedTokenRules) -> None:
        tokens = vocabulary.tokens
        hidden = rules.added.union(vocabulary.ids_of(*_NEVER_FROM_TEXT)) - rules.piece
        self._hidden = {tokens[token] for token in hidden}
        self._index = vocabulary.index
        self._remembered: dict[bytes, int | None] = {}

    def get(self, text: bytes) -> int | None:
        """The token's id; None if text never becomes one of this text."""
        remembered = self._remembered
        if text in remembered:
            return remembered[text]
        found = None if text in self._hidden else self._index.last(text)
        if len(text) <= MAX_REMEMBERED_WORD_LENGTH:
            if len(remembered) >= MAX_REMEMBERED_TEXTS:
                remembered = self._remembered = {}
            remembered[text] = found
        return found

    def __contains__(self, text: bytes) -> bool:
        return self.get(text) is not None
