"""SentencePiece from GGUF metadata (``tokenizer.ggml.model`` = ``llama``, or ``t5`` for unigram).

The model is rebuilt from the file and given to the sentencepiece library, which cuts the text. This
module turns tokens back into bytes one by one, as streaming needs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from edgellama.quant.vocabulary.added_tokens import AddedTokenRules
from edgellama.quant.vocabulary.sentencepiece_model import (
    CHARSMAP_KEY,
    SPACE_SYMBOL,
    model_maker,
    processor,
)
from edgellama.quant.vocabulary.space_rules import SpaceRules
from edgellama.quant.vocabulary.special_tokens import SENTENCEPIECE_NAMES, read_special_tokens
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary
from edgellama.text.tokenizer.added_tokens import Stretch
from edgellama.text.tokenizer.base import Tokenizer

UNKNOWN_SURFACE = " \N{DOUBLE QUESTION MARK} ".encode()  # what the library writes
_WORD = re.compile("[ \u2581]?[^ \u2581]+|[ \u2581]")


class SentencePieceTokenizer(Tokenizer):
    """The sentencepiece library over the model's own vocabulary."""

    decode_errors = "surrogateescape"
    controls_end_characters = True

    def __init__(self, metadata: Mapping[str, object]) -> None:
        vocabulary = Vocabulary.from_metadata(metadata)
        special = read_special_tokens(
            metadata, vocabulary, add_bos_default=True, names=SENTENCEPIECE_NAMES
        )
        rules = AddedTokenRules.from_metadata(metadata, len(vocabulary.tokens))
        super().__init__(vocabulary, special, rules)
        self._spaces = SpaceRules.from_metadata(metadata)
        has_bytes = bool(vocabulary.ids_of(TokenType.BYTE))
        # Characters get lost in a vocabulary without bytes, where unknown ones in a row are one
        # token, and with a map of characters, which may leave some out.
        self._keeps_characters = has_bytes and CHARSMAP_KEY not in metadata
        self._make_model = model_maker(metadata, vocabulary, special.unknown_id)
        self._library_prefixes = self._spaces.lets_library_prefix and self._spaces.adds_space
        # That the vocabulary can be loaded is known at once, not with the first text.
        self._processor = processor(self._make_model(self._library_prefixes))

    def opening_bytes(self, token: int, *, skip_special: bool = True) -> tuple[bytes, bool]:
        """Bytes as sentencepiece decodes: a first token loses the space that encoding adds."""
        data = self.token_bytes(token, skip_special=skip_special)
        if self._spaces.strips_space and self._vocabulary.tokens[token].startswith(SPACE_SYMBOL):
            return data[1:], self._spaces.removes_spaces and len(data) == 1
        return data, not data

    @property
    def opens_with_space(self) -> bool:
        """Whether the first stretch of a text gets a space."""
        return self._spaces.wants_prefix("x", is_first=True)

    def _encode_text(self, stretch: Stretch) -> list[int]:
        spaces, text = self._spaces, stretch.text
        prefixed = not stretch.has_prefix and spaces.wants_prefix(text, is_first=stretch.is_first)
        if self._library_prefixes and prefixed and text:
            whole: list[int] = self._processor.encode(text)
            return whole
        library = self._bare_processor if self._library_prefixes else self._processor
        text = f" {text}" if prefixed else text
        check = self._current_check
        tokens: list[int] = []
        for word in _WORD.findall(text) if spaces.splits_words else [text]:
            check()
            tokens += library.encode(word)
        return tokens

    def _num_kept_bytes(self, text: str) -> int:
        if not self._keeps_characters:
            return 0
        data = text.encode(errors="replace")
        return len(data.translate(None, b" ") if self._spaces.removes_spaces else data)

    @cached_property
    def _bare_processor(self) -> Any:
        """One that puts no space before text."""
        return processor(self._make_model(False))

    def _plain_bytes(self, token: int, token_type: int) -> bytes:
        raw = self._vocabulary.tokens[token]
        if token_type == TokenType.BYTE:
            return bytes((int(raw[3:5], 16),))
        if token_type == TokenType.UNKNOWN:
            return UNKNOWN_SURFACE
        return raw.replace(SPACE_SYMBOL, b" ")
