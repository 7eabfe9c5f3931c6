"""The vocabulary of a SentencePiece ``tokenizer.model`` and the tokens added beside it.

``sentencepiece_file`` reads the file. ``fast_sentencepiece_vocabulary`` reads the same model from a
``tokenizer.json``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.added_tokens import (
    AddedToken,
    added_tokens,
    rules_of,
    user_defined,
)
from edgellama.convert.vocabulary.sentencepiece_file import ModelType, SentencePieceFile
from edgellama.convert.vocabulary.sequence_ends import bos_and_eos
from edgellama.convert.vocabulary.space_steps import SPACE_SYMBOL, TextRules, text_rules
from edgellama.convert.vocabulary.tokenizer_settings import (
    TokenizerSettings,
    looks_special,
    special_ids,
)
from edgellama.convert.vocabulary.vocabulary import (
    ADDED_SCORE,
    ConvertedVocabulary,
    Token,
    TokenTable,
)
from edgellama.quant.error_text import shown
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.vocabulary.added_tokens import AddedTokenRules
from edgellama.quant.vocabulary.space_rules import SpaceRules
from edgellama.quant.vocabulary.vocabulary import TokenType

_log = logging.getLogger(__name__)
_MODELS = {ModelType.BPE: "llama", ModelType.UNIGRAM: "t5"}
_BEHIND: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ChatGLMTokenizer": (
            *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
            *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        )
    }
)
"""Tokens that a class puts behind the pieces, which no file says."""
# Types that a list of added tokens does not change: text becomes them by other rules.
_KEPT = (TokenType.UNKNOWN, TokenType.BYTE)


def sentencepiece_vocabulary(
    model: SentencePieceFile, settings: TokenizerSettings, num_rows: int
) -> ConvertedVocabulary:
    """What GGUF holds of the model; UnsupportedModelError for a kind that chooses words."""
    kind = _MODELS.get(model.model_type)
    if kind is None:
        raise UnsupportedModelError(
            f"{model.path}: a SentencePiece model of type {model.model_type.name}; "
            f"supported: {', '.join(kind.name for kind in _MODELS)}"
        )
    table = TokenTable(str(model.path))
    behind = (Token(text, TokenType.CONTROL) for text in _BEHIND.get(settings.tokenizer_class, ()))
    every = (*model.pieces, *behind)
    for token, piece in enumerate(every):
        table.put(token, piece)
    rules = text_rules(settings, _rules_of_model(model))
    pieces = {piece.text: token for token, piece in enumerate(every)}
    added = added_tokens(settings, pieces)
    _warn_of_differences(str(model.path), pieces, settings.tokenizer, added)
    return completed(
        kind, table, num_rows, settings, added, rules, pieces, lambda ids: model.special_ids
    )


def _warn_of_differences(
    path: str, pieces: Mapping[str, int], tokenizer: Fields, added: Container[int]
) -> None:
    """Tell of a tokenizer.json with other pieces, one of both being left from another model."""
    entries = tokenizer.fields("model").values.get("vocab")
    if not isinstance(entries, dict):
        return
    others = [t for t, token in entries.items() if pieces.get(t) != token and token not in added]
    if others:
        _log.warning(
            "%s counts, although %s has other ids for %d pieces, such as %s; remove the one that "
            "is not this model's",
            *(path, tokenizer.source, len(others), shown(others[0])),
        )


def completed(
    kind: str,
    table: TokenTable,
    num_rows: int,
    settings: TokenizerSettings,
    added: Mapping[int, AddedToken],
    rules: TextRules,
    pieces: Mapping[str, int],
    own_ids: Callable[[Mapping[str, int]], Mapping[str, int]],
) -> ConvertedVocabulary:
    """The vocabulary of a table with all pieces, ``added`` put beside them.

    ``pieces``: ids in the vocabulary proper. ``own_ids``: which ids by role the vocabulary itself
    names, of all ids by text.
    """
    add_tokens(table, added)
    tokens = table.finished(num_rows)
    ids_by_text = {token.text: index for index, token in enumerate(tokens)}
    ids = special_ids(settings, ids_by_text, own_ids(ids_by_text))
    return ConvertedVocabulary(
        model=kind,
        pre="default",
        tokens=[token.text for token in tokens],
        types=[token.type for token in tokens],
        scores=[token.score for token in tokens],
        special_ids=ids,
        settings=bos_and_eos(settings, ids, tokens, is_sentencepiece=True),
        charsmap=rules.charsmap,
        added=added_rules(added, tokens, rules, pieces),
        spaces=rules.spaces,
    )


def _rules_of_model(model: SentencePieceFile) -> TextRules:
    kind = TokenType.USER_DEFINED
    return TextRules(
        SpaceRules(model.adds_space_prefix, model.removes_extra_spaces),
        charsmap=model.charsmap,
        user_defined=frozenset(piece.text for piece in model.pieces if piece.type == kind),
    )


def added_rules(
    added: Mapping[int, AddedToken],
    tokens: Sequence[Token],
    rules: TextRules,
    pieces: Mapping[str, int],
) -> AddedTokenRules:
    """How tokens are looked for. ``pieces``: ids in the vocabulary proper.

    Those that sentencepiece finds itself are left to it, unless a file lists them, too.
    """
    known = {pieces.get(text) for text in rules.user_defined}
    found = [i for i, _ in user_defined(tokens) if i in added or i not in known]
    if not rules.normalizes:
        added = {token: replace(entry, normalized=False) for token, entry in added.items()}
    ids = rules_of(added, tokens, pieces, found_in_text=found, normalizer=rules.normalizer)
    return replace(ids, piece=ids.piece - known)


def add_tokens(table: TokenTable, added: Mapping[int, AddedToken]) -> None:
    """Put the added tokens into a table of SentencePiece's.

    GGUF's readers look for user-defined tokens in the text itself, so these get plain spaces.
    What text can be merged to keeps its score.
    """
    for token, entry in added.items():
        special = entry.special or looks_special(entry.text)
        kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
        text = entry.text if special else entry.text.replace(SPACE_SYMBOL, " ")
        score = ADDED_SCORE
        if token in table:
            known = table[token]
            if known.text == entry.text and known.type in (*_KEPT, kind):
                continue
            if known.type == TokenType.UNKNOWN:
                kind = TokenType.UNKNOWN
            if known.text == entry.text and known.type == TokenType.NORMAL:
                score = known.score
        table.put(token, Token(text, kind, score))
