"""What every tokenizer can do, and what does not depend on how words become tokens.

Splitting at special tokens, adding BOS and EOS, turning tokens back into bytes and text.
The kinds of tokenizer only say how a stretch of plain text is cut.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from edgellama.quant.errors import TokenizerError
from edgellama.quant.vocabulary.special_tokens import SpecialTokens
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(ABC):
    """Text to token ids and back, for one model. Safe to share between threads."""

    # How bytes that are not UTF-8 decode: "replace" gives one U+FFFD for each maximal
    # invalid part, "surrogateescape" one for each byte (after replace_surrogates).
    decode_errors: ClassVar[str] = "replace"
    # Whether bytes on both sides of a control token never make one character together.
    controls_end_characters: ClassVar[bool] = False
    # Token types whose text is matched in any text, before it is cut.
    matched_types: ClassVar[tuple[TokenType, ...]] = ()

    def __init__(self, vocabulary: Vocabulary, special: SpecialTokens) -> None:
        self.special = special
        self._vocabulary = vocabulary
        # Without types, only the declared roles tell a control token from text.
        self._untyped_control = () if vocabulary.has_types else (special.bos_id, special.eos_id)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._vocabulary.tokens)

    def encode(
        self, text: str, *, add_bos: bool | None = None, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        ``add_bos``: None follows the model for BOS and EOS, True adds BOS alone, False neither;
        a text that starts with a parsed BOS gets no second one. ``parse_special``: False keeps
        text that looks like a control token as text. Lone surrogates count as U+FFFD.
        """
        if add_bos and self.special.bos_id is None:
            raise TokenizerError("add_bos is True, but the model has no BOS token")
        tokens: list[int] = []
        for part in self.split_special(well_formed(text), parse_special=parse_special):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self._encode_text(part)
        bos, eos = self.special.bos_id, self.special.eos_id
        wants_bos = self.special.add_bos if add_bos is None else add_bos
        if wants_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        if add_bos is None and self.special.add_eos and eos is not None:
            tokens.append(eos)
        return tokens

    def split_special(self, text: str, *, parse_special: bool = True) -> list[str | int]:
        """The text cut at special tokens: ids of those, and the stretches between them.

        The leftmost and then longest match wins, as in Hugging Face tokenizers. User-defined
        tokens count as special here where the kind of tokenizer matches them in any text.
        """
        pattern = self._special_pattern if parse_special else self._matched_pattern
        if pattern is None:
            return [text] if text else []
        ids = self._special_ids
        parts: list[str | int] = []
        for index, part in enumerate(pattern.split(text)):
            if index % 2:
                parts.append(ids[part])
            elif part:
                parts.append(part)
        return parts

    def control_texts(self) -> list[str]:
        """Texts of the tokens that only a template or ``parse_special`` may produce."""
        ids = self._vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
        return [text for text in map(self._vocabulary.text, ids) if text]

    def decode(
        self, tokens: Sequence[int], *, skip_special: bool = True, continuation: bool = False
    ) -> str:
        """Text of some tokens; invalid UTF-8 becomes U+FFFD.

        ``continuation``: the tokens carry on a text, so a first space is kept that would
        otherwise be the one that encoding adds.
        """
        at_start, parts = not continuation, [b""]
        for token in tokens:
            if at_start:
                data, at_start = self.opening_bytes(token, skip_special=skip_special)
            else:
                data = self.token_bytes(token, skip_special=skip_special)
            if self.controls_end_characters and self.is_control(token):
                parts.append(b"")
            parts[-1] += data
        text = "".join(part.decode("utf-8", self.decode_errors) for part in parts)
        return replace_surrogates(text)

    def is_control(self, token: int) -> bool:
        """Whether a token has no text of its own and is usually skipped."""
        token_type = self._vocabulary.types[token]
        return bool(token_type == TokenType.CONTROL or token in self._untyped_control)

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """Bytes that a token stands for inside a text; nothing for a skipped control token."""
        self._check(token)
        if self.is_control(token):
            return b"" if skip_special else self._vocabulary.tokens[token]
        return self._plain_bytes(token, self._vocabulary.types[token])

    def opening_bytes(self, token: int, *, skip_special: bool = True) -> tuple[bytes, bool]:
        """Bytes of a token where a text may begin, and whether the next one may still open it."""
        data = self.token_bytes(token, skip_special=skip_special)
        return data, not data

    def token_text(self, token: int) -> str:
        """A token as the vocabulary writes it, for display."""
        self._check(token)
        return self._vocabulary.text(token)

    @abstractmethod
    def _encode_text(self, text: str) -> list[int]:
        """Tokens of a non-empty, well-formed stretch without special tokens."""

    @abstractmethod
    def _plain_bytes(self, token: int, token_type: int) -> bytes:
        """Bytes of a valid token that is not a control token."""

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise TokenizerError(f"token {token}; 0 to {self.vocab_size - 1}")

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        types = (TokenType.CONTROL, TokenType.UNKNOWN, *self.matched_types)
        ids = reversed(self._vocabulary.ids_of(*types))
        return {text: token for token in ids if (text := self._vocabulary.text(token))}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str] | None:
        return _any_of(list(self._special_ids))

    @cached_property
    def _matched_pattern(self) -> re.Pattern[str] | None:
        ids = self._vocabulary.ids_of(*self.matched_types)
        return _any_of([text for text in map(self._vocabulary.text, ids) if text])


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def replace_surrogates(text: str) -> str:
    """The text with every surrogate replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub(REPLACEMENT_CHARACTER, text)


def _any_of(texts: list[str]) -> re.Pattern[str] | None:
    """A pattern that captures the longest of these texts; None for no texts."""
    if not texts:
        return None
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")
