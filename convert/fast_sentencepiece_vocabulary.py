"""SentencePiece out of a ``tokenizer.json``, for checkpoints that have lost ``tokenizer.model``.

Such a file holds merges in place of scores. Scores say the same where every split of a piece is
a merge, and all merges into one piece come together: then a piece's place among the merges is
its score. Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from edgellama.convert.bpe_vocabulary import bos_and_eos, merge_pairs, vocabulary_entries
from edgellama.convert.json_fields import Fields
from edgellama.convert.sentencepiece_vocabulary import SPACE_SYMBOL, add_tokens
from edgellama.convert.tokenizer_settings import TokenizerSettings, special_ids
from edgellama.convert.vocabulary import Token, TokenTable, TokenType, Vocabulary
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.gguf_cursor import shown

WAY_OUT = "put the model's tokenizer.model into the folder"
MAX_PIECE_LENGTH = 256
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_fast_sentencepiece(tokenizer: Fields) -> bool:
    """Whether a tokenizer.json is a BPE that falls back to byte tokens."""
    model = tokenizer.fields("model")
    return model.text("type") in ("BPE", None) and model.flag("byte_fallback", False)


def fast_sentencepiece_vocabulary(settings: TokenizerSettings, num_rows: int) -> Vocabulary:
    """What GGUF holds of the tokenizer; UnsupportedModelError where scores cannot say the same."""
    tokenizer = settings.tokenizer
    model = tokenizer.fields("model")
    entries = dict(vocabulary_entries(model))
    unknown = model.text("unk_token") or "<unk>"
    added = {token.text for token in settings.added_tokens()}
    made = {t for t in entries if t not in added and t != unknown and not _BYTE.fullmatch(t)}
    scores = _scores(tokenizer.source, merge_pairs(model), entries, made)
    table = TokenTable(tokenizer.source)
    for text, token in entries.items():
        kind = TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL
        kind = TokenType.UNKNOWN if text == unknown else kind
        table.put(token, Token(text, kind, scores.get(text, 0.0)))
    add_tokens(table, settings)
    tokens = table.finished(num_rows)
    ids = special_ids(settings, {token.text: index for index, token in enumerate(tokens)}, {})
    adds = bos_and_eos(settings, ids, tokens)
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=[token.text for token in tokens],
        types=[token.type for token in tokens],
        scores=[token.score for token in tokens],
        special_ids=ids,
        settings=adds
        | {"add_space_prefix": _adds_space(tokenizer), "remove_extra_whitespaces": False},
    )


def _scores(
    source: str, pairs: list[tuple[str, str]], entries: Mapping[str, int], made: Set[str]
) -> dict[str, float]:
    """Scores of the pieces that merges make: 0, -1, -2, in the order of the merges.

    ``made``: the pieces that text can become, and so must be made by every split of theirs.
    """
    splits: dict[str, set[int]] = {}
    last = None
    for left, right in pairs:
        left, right = left.replace("\u0120", " "), right.replace("\u0120", " ")
        piece = left + right
        if piece != last and piece in splits:
            raise _inexact(source, f"the merges into {shown(piece)} do not come together")
        if piece not in made:
            raise _inexact(source, f"{shown(piece)} is a merge but no piece")
        splits.setdefault(piece, set()).add(len(left))
        last = piece
    for piece in made:
        if len(piece) > MAX_PIECE_LENGTH:
            raise _inexact(source, f"{shown(piece)} is longer than {MAX_PIECE_LENGTH} characters")
        cuts = range(1, len(piece))
        possible = {i for i in cuts if piece[:i] in entries and piece[i:] in entries}
        if splits.get(piece, set()) != possible:
            raise _inexact(source, f"the merges into {shown(piece)} are not all that could be")
    return {piece: -float(rank) for rank, piece in enumerate(splits)}


def _adds_space(tokenizer: Fields) -> bool:
    """Whether a space goes before a text; UnsupportedModelError for unknown steps."""
    adds = False
    steps = [*_members(tokenizer, "normalizer"), *_members(tokenizer, "pre_tokenizer")]
    for step in steps:
        kind = step.text("type")
        if kind == "Prepend" and step.text("prepend") == SPACE_SYMBOL:
            adds = True
        elif kind == "Metaspace" and step.text("replacement") == SPACE_SYMBOL:
            scheme = step.text("prepend_scheme")
            adds = step.flag("add_prefix_space", True) if scheme is None else scheme != "never"
        elif not (kind == "Replace" and step.text("content") == SPACE_SYMBOL):
            raise _inexact(tokenizer.source, f"text goes through {shown(kind)}")
    return adds


def _members(tokenizer: Fields, name: str) -> list[Fields]:
    step = tokenizer.fields(name)
    if step.text("type") == "Sequence":
        return list(step.objects("normalizers" if name == "normalizer" else "pretokenizers"))
    return [step] if step else []


def _inexact(source: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{source}: is no SentencePiece model in other words, because {why}; {WAY_OUT}"
    )
