"""The vocabulary of a SentencePiece ``tokenizer.model`` and the tokens added beside it."""

from __future__ import annotations

from edgellama.convert.vocabulary.sentencepiece_file import ModelType, SentencePieceFile
from edgellama.convert.vocabulary.tokenizer_settings import (
    TokenizerSettings,
    looks_special,
    special_ids,
)
from edgellama.convert.vocabulary.vocabulary import (
    ADDED_SCORE,
    Token,
    TokenTable,
    Vocabulary,
)
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.vocabulary.vocabulary import TokenType

SPACE_SYMBOL = "\N{LOWER ONE EIGHTH BLOCK}"
_MODELS = {ModelType.BPE: "llama", ModelType.UNIGRAM: "t5"}
# Types that a list of added tokens does not change: text becomes them by other rules.
_KEPT = (TokenType.UNKNOWN, TokenType.BYTE)


def sentencepiece_vocabulary(
    model: SentencePieceFile, settings: TokenizerSettings, num_rows: int
) -> Vocabulary:
    """What GGUF holds of the model; UnsupportedModelError for a kind that chooses words."""
    kind = _MODELS.get(model.model_type)
    if kind is None:
        raise UnsupportedModelError(
            f"{model.path}: a SentencePiece model of type {model.model_type.name}; "
            f"supported: {', '.join(kind.name for kind in _MODELS)}"
        )
    table = TokenTable(str(model.path))
    for token, piece in enumerate(model.pieces):
        table.put(token, piece)
    add_tokens(table, settings)
    tokens = table.finished(num_rows)
    ids_by_text = {token.text: index for index, token in enumerate(tokens)}
    adds_bos, adds_eos = settings.flag("add_bos_token"), settings.flag("add_eos_token")
    adds_space = settings.flag("add_prefix_space")
    ids = special_ids(settings, ids_by_text, model.special_ids)
    return Vocabulary(
        model=kind,
        pre="default",
        tokens=[token.text for token in tokens],
        types=[token.type for token in tokens],
        scores=[token.score for token in tokens],
        special_ids=ids,
        settings={
            "add_bos_token": "bos" in ids and adds_bos is not False,
            "add_eos_token": "eos" in ids and adds_eos is True,
            "add_space_prefix": model.adds_space_prefix if adds_space is None else adds_space,
            "remove_extra_whitespaces": model.removes_extra_spaces,
        },
        charsmap=model.charsmap,
    )


def add_tokens(table: TokenTable, settings: TokenizerSettings) -> None:
    """Puts the added tokens into a table of SentencePiece's.

    GGUF's readers look for user-defined tokens in the text itself, so these get plain spaces.
    """
    for added in settings.added_tokens():
        special = added.special or looks_special(added.text)
        kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
        text = added.text if special else added.text.replace(SPACE_SYMBOL, " ")
        if added.id in table:
            known = table[added.id]
            if known.text == added.text and known.type in (*_KEPT, kind):
                continue
            if known.type == TokenType.UNKNOWN:
                kind = TokenType.UNKNOWN
        table.put(added.id, Token(text, kind, ADDED_SCORE))
