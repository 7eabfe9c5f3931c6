"""SentencePiece from a ``tokenizer.json``, for checkpoints that have lost ``tokenizer.model``.

Such a file holds merges in place of scores. Both say the same if every split of a piece is a merge,
and all merges into one piece stand together: then a piece's place among the merges is its score.
Pieces of equal scores, such as runs of spaces, come mixed, the longest parts first; a run grows
from its left end either way. Any other file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from itertools import groupby

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.added_tokens import added_tokens
from edgellama.convert.vocabulary.bpe_vocabulary import merge_pairs, vocabulary_entries
from edgellama.convert.vocabulary.sentencepiece_vocabulary import completed
from edgellama.convert.vocabulary.space_steps import TextRules, UnknownStep, text_rules
from edgellama.convert.vocabulary.tokenizer_settings import TokenizerSettings
from edgellama.convert.vocabulary.vocabulary import ConvertedVocabulary, Token, TokenTable
from edgellama.quant.error_text import shown
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.vocabulary.vocabulary import TokenType

WAY_OUT = (
    "if the model that it was made from has a tokenizer.model, put that into the folder; "
    "edgellama has no other way to run it"
)
MAX_PIECE_LENGTH = 256
# What SentencePiece itself calls them.
ROLES = {"bos": "<s>", "eos": "</s>"}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_fast_sentencepiece(tokenizer: Fields) -> bool:
    """Whether a tokenizer.json is a BPE that falls back to byte tokens."""
    model = tokenizer.fields("model")
    return model.text("type") in ("BPE", None) and model.flag("byte_fallback", False)


def fast_sentencepiece_vocabulary(
    settings: TokenizerSettings, num_rows: int
) -> ConvertedVocabulary:
    """What GGUF holds of the tokenizer; UnsupportedModelError where scores cannot say the same."""
    tokenizer = settings.tokenizer
    model = tokenizer.fields("model")
    entries = dict(vocabulary_entries(model))
    unknown = model.text("unk_token") or "<unk>"
    added = added_tokens(settings, entries)
    rules = _text_rules(settings)
    pairs = [(a.replace("\u0120", " "), b.replace("\u0120", " ")) for a, b in merge_pairs(model)]
    beside = {token.text for token in added.values()} - {a + b for a, b in pairs}
    never_made = {unknown, *beside, *rules.user_defined}
    made = {t for t in entries if t not in never_made and not _BYTE.fullmatch(t)}
    scores = _scores(tokenizer.source, pairs, entries, made)
    table = TokenTable(tokenizer.source)
    for text, token in entries.items():
        kind = TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL
        kind = TokenType.UNKNOWN if text == unknown else kind
        kind = TokenType.USER_DEFINED if text in rules.user_defined else kind
        table.put(token, Token(text, kind, scores.get(text, 0.0)))

    def own_ids(ids: Mapping[str, int]) -> Mapping[str, int]:
        own = {role: ids[text] for role, text in ROLES.items() if text in ids}
        return own | {"unknown": ids.get(unknown, 0)}

    return completed("llama", table, num_rows, settings, added, rules, entries, own_ids)


def _text_rules(settings: TokenizerSettings) -> TextRules:
    """Where spaces go; UnsupportedModelError for unknown steps."""
    try:
        return text_rules(settings, None)
    except UnknownStep as step:
        source = settings.tokenizer.source
        raise _inexact(source, f"text goes through {shown(str(step))}") from None


def _scores(
    source: str, pairs: list[tuple[str, str]], entries: Mapping[str, int], made: Set[str]
) -> dict[str, float]:
    """Scores of the pieces that merges make: 0, -1, -2, in the order of the merges.

    ``made``: the pieces that text can become, and so must be made by every split of theirs.
    """
    scores: dict[str, float] = {}
    splits: dict[str, set[int]] = {}
    for rank, members in enumerate(_classes(pairs)):
        pieces = {left + right for left, right in members}
        if any(piece in scores for piece in pieces):
            raise _inexact(source, f"the merges into {shown(min(pieces))} do not come together")
        sizes = [(len(left), len(right)) for left, right in members]
        if len(pieces) > 1 and sizes != sorted(sizes, reverse=True):
            raise _inexact(source, f"the merges into {shown(min(pieces))} are out of order")
        scores |= dict.fromkeys(pieces, -float(rank))
        for left, right in members:
            splits.setdefault(left + right, set()).add(len(left))
    for piece in made:
        if len(piece) > MAX_PIECE_LENGTH:
            raise _inexact(source, f"{shown(piece)} is longer than {MAX_PIECE_LENGTH} characters")
        cuts = range(1, len(piece))
        possible = {i for i in cuts if piece[:i] in entries and piece[i:] in entries}
        if splits.pop(piece, set()) != possible:
            raise _inexact(source, f"the merges into {shown(piece)} are not all that could be")
    if splits:
        raise _inexact(source, f"{shown(min(splits))} is a merge but no piece")
    return scores


def _classes(pairs: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Merges that have one score: into one piece, or mixed into runs of one character."""

    def piece(pair: tuple[str, str]) -> str:
        return pair[0] + pair[1]

    def run(pair: tuple[str, str]) -> str:
        text = piece(pair)
        return text[0] if text == text[0] * len(text) else text

    for _, together in groupby(pairs, run):
        members = list(together)
        by_piece = [list(group) for _, group in groupby(members, piece)]
        if len(by_piece) == len(set(map(piece, members))):
            yield from by_piece
        else:
            yield members


def _inexact(source: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{source}: is no SentencePiece model in other words, because {why}; {WAY_OUT}"
    )
