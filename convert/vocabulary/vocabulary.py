"""A source's vocabulary as GGUF holds it, and the table in which it is put together.

Each kind of tokenizer has a module that knows its files and what they mean.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.vocabulary.added_tokens import NORMALIZER_KEY, AddedTokenRules
from edgellama.quant.vocabulary.space_rules import (
    ADDS_SPACE_KEY,
    REMOVES_SPACES_KEY,
    SCHEME_KEY,
    SPLITS_WORDS_KEY,
    STRIPS_SPACE_KEY,
    SpaceRules,
)
from edgellama.quant.vocabulary.vocabulary import TokenType

PADDING_SCORE = -10000.0
ADDED_SCORE = -1000.0
MAX_TOKENS = 1 << 24
_log = logging.getLogger(__name__)

# A tokenizer may have more tokens of these types than the model has rows: text never becomes one.
_DROPPABLE = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED)


@dataclass(frozen=True)
class ConvertedVocabulary:
    """Everything under ``tokenizer.ggml.``; tokens, types and scores go by token id.

    ``model`` is "llama" (SentencePiece BPE), "t5" (SentencePiece unigram) or "gpt2" (byte-level
    BPE). ``special_ids`` goes by role ("bos", "fim_pre"), ``settings`` by key ("add_bos_token").
    ``spaces``: of SentencePiece alone.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    special_ids: Mapping[str, int]
    settings: Mapping[str, bool]
    scores: Sequence[float] | None = None
    merges: Sequence[str] | None = None
    charsmap: bytes = b""
    added: AddedTokenRules = field(default_factory=AddedTokenRules)
    spaces: SpaceRules | None = None

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.types) == len(self.scores or self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens, {len(self.types)} types, or scores")
        beyond = {role: i for role, i in self.special_ids.items() if i >= len(self.tokens)}
        if beyond:
            raise ValueError(f"{beyond} beyond {len(self.tokens)} tokens")

    def items(self) -> dict[str, MetadataItem]:
        """The keys."""
        prefix = "tokenizer.ggml."
        items = {
            f"{prefix}model": metadata.text(self.model),
            f"{prefix}pre": metadata.text(self.pre),
            f"{prefix}tokens": metadata.texts(self.tokens),
        }
        if self.scores is not None:
            items[f"{prefix}scores"] = metadata.numbers(self.scores)
        items[f"{prefix}token_type"] = metadata.integers(self.types)
        if self.merges:
            items[f"{prefix}merges"] = metadata.texts(self.merges)
        for role, token in self.special_ids.items():
            items[f"{prefix}{role}_token_id"] = metadata.unsigned(token)
        for key, value in self.settings.items():
            items[f"{prefix}{key}"] = metadata.flag(value)
        if self.charsmap:
            items[f"{prefix}precompiled_charsmap"] = metadata.octets(self.charsmap)
        return items | self._own_items()

    def _own_items(self) -> dict[str, MetadataItem]:
        """What GGUF has no keys for, and none where readers do right without."""
        ids = self.added.ids_by_key()
        items = {key: metadata.integers(sorted(ids[key])) for key in ids}
        if self.added.normalizer:
            items[NORMALIZER_KEY] = metadata.text(self.added.normalizer)
        spaces = self.spaces
        if spaces is not None:
            items[ADDS_SPACE_KEY] = metadata.flag(spaces.adds_space)
            items[REMOVES_SPACES_KEY] = metadata.flag(spaces.removes_spaces)
            if spaces.scheme is not None:
                items[SCHEME_KEY] = metadata.text(spaces.scheme)
            if spaces.splits_words:
                items[SPLITS_WORDS_KEY] = metadata.flag(True)
            if spaces.strips_space != (spaces.adds_space or spaces.removes_spaces):
                items[STRIPS_SPACE_KEY] = metadata.flag(spaces.strips_space)
        return items


@dataclass(frozen=True)
class Token:
    """A token's text as GGUF writes it, its type and its score (0 if there are none)."""

    text: str
    type: TokenType
    score: float = 0.0


class TokenTable:
    """Tokens by id, as several files together give them."""

    def __init__(self, source: str) -> None:
        """``source``: the file or folder that messages name."""
        self._source = source
        self._tokens: dict[int, Token] = {}

    def __contains__(self, token: int) -> bool:
        return token in self._tokens

    def __getitem__(self, token: int) -> Token:
        return self._tokens[token]

    def put(self, token: int, entry: Token) -> None:
        """Set a token, in place of an earlier one with the same id."""
        if not 0 <= token < MAX_TOKENS:
            raise ModelFileError(
                f"{self._source}: token id {token} of {shown(entry.text)}; "
                f"allowed: 0 to {MAX_TOKENS - 1}"
            )
        self._tokens[token] = entry

    def finished(self, num_rows: int) -> list[Token]:
        """One token for each of the ``num_rows`` rows of the embedding.

        Rows without a token, and tokens that are empty or there before, become unused ones under
        names of their own. Added tokens beyond the rows are left out; ModelFileError for others.
        """
        beyond = {i: entry for i, entry in self._tokens.items() if i >= num_rows}
        for token, entry in beyond.items():
            if entry.type not in _DROPPABLE:
                raise ModelFileError(
                    f"{self._source}: token {token} is {shown(entry.text)}, but the embedding has "
                    f"{num_rows} rows; allowed: ids below that"
                )
        if beyond:
            _log.warning(
                "%s: %d added token(s) left out, the first %s, because the embedding has %d rows",
                self._source,
                len(beyond),
                shown(next(iter(beyond.values())).text),
                num_rows,
            )
        return self._distinct(num_rows)

    def _distinct(self, num_rows: int) -> list[Token]:
        finished: list[Token] = []
        taken, seen = {entry.text for entry in self._tokens.values()}, {""}
        for token in range(num_rows):
            entry = self._tokens.get(token)
            if entry is None or entry.text in seen:
                if entry is not None:
                    _log.warning(
                        "%s: token %d, %s, is empty or there twice; it becomes unused",
                        self._source,
                        token,
                        shown(entry.text),
                    )
                name = f"[PAD{token}]"
                while name in taken:
                    name = f"[{name}]"
                entry = Token(name, TokenType.UNUSED, PADDING_SCORE)
            seen.add(entry.text)
            finished.append(entry)
        return finished
