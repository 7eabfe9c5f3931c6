"""The vocabulary of a byte-level BPE in Hugging Face's ``tokenizer.json``.

``split_pattern_names`` knows its split pattern, and ``tokenizer_settings`` the roles of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.added_tokens import added_tokens, rules_of, user_defined
from edgellama.convert.vocabulary.sequence_ends import bos_and_eos
from edgellama.convert.vocabulary.split_pattern_names import split_pattern_name
from edgellama.convert.vocabulary.tokenizer_settings import (
    TokenizerSettings,
    looks_special,
    special_ids,
)
from edgellama.convert.vocabulary.vocabulary import (
    MAX_TOKENS,
    ConvertedVocabulary,
    Token,
    TokenTable,
)
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.vocabulary.vocabulary import TokenType

# How a space is written where byte-level BPE has no spaces.
_SPACE_STAND_IN = "\u0120"


def bpe_vocabulary(
    settings: TokenizerSettings, num_rows: int, pre: str | None
) -> ConvertedVocabulary:
    """What GGUF holds of the tokenizer; ``pre`` as in split_pattern_name."""
    tokenizer = settings.tokenizer
    name = split_pattern_name(tokenizer, pre)
    table = TokenTable(tokenizer.source)
    entries = dict(vocabulary_entries(tokenizer.fields("model")))
    for text, token in entries.items():
        if token in table:
            raise ModelFileError(
                f"{tokenizer.source}: token {token} is {shown(table[token].text)} and "
                f"{shown(text)}; allowed: an id of its own for each"
            )
        table.put(token, Token(text, TokenType.NORMAL))
    merges = [" ".join(pair) for pair in merge_pairs(tokenizer.fields("model"))]
    return finished_vocabulary(table, entries, merges, settings, num_rows, name)


def finished_vocabulary(
    table: TokenTable,
    entries: Mapping[str, int],
    merges: list[str],
    settings: TokenizerSettings,
    num_rows: int,
    pre: str,
) -> ConvertedVocabulary:
    """A byte-level vocabulary with the tokens that were added beside it, their rules and roles.

    ``table`` has the tokens of ``entries``, ids by text.
    """
    added = added_tokens(settings, entries)
    for token, entry in added.items():
        is_special = entry.special or looks_special(entry.text)
        kind = TokenType.CONTROL if is_special else TokenType.USER_DEFINED
        table.put(token, Token(entry.text, kind))
    tokens = table.finished(num_rows)
    ids = special_ids(settings, {token.text: index for index, token in enumerate(tokens)}, {})
    # What the vocabulary proper lacks is never made of a word that is left in the text.
    beside = [i for i, token in user_defined(tokens) if token.text not in entries]
    return ConvertedVocabulary(
        model="gpt2",
        pre=pre,
        tokens=[token.text for token in tokens],
        types=[token.type for token in tokens],
        merges=merges,
        special_ids=ids,
        settings=bos_and_eos(settings, ids, tokens, is_sentencepiece=False)
        | {"add_space_prefix": False},
        added=rules_of(added, tokens, entries, found_in_text=beside),
    )


def vocabulary_entries(model: Fields) -> Iterator[tuple[str, int]]:
    """Texts and ids of ``model.vocab``."""
    vocab = model.fields("vocab")
    if not vocab:
        raise model.error("vocab", "an object with at least one token")
    try:
        "".join(vocab.values).encode()
    except UnicodeEncodeError:
        raise ModelFileError(
            f"{model.source}: {model.prefix}vocab holds lone surrogates; allowed: Unicode text"
        ) from None
    for text, token in vocab.values.items():
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < MAX_TOKENS:
            raise vocab.error(text, f"a token id from 0 to {MAX_TOKENS - 1}")
        yield text, token


def merge_pairs(model: Fields) -> list[tuple[str, str]]:
    """The merges in order, from either way to write them; spaces become their stand-in."""
    pairs = []
    for merge in model.items("merges"):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (
            isinstance(parts, list)
            and len(parts) == 2
            and all(isinstance(part, str) and part for part in parts)
        ):
            raise ModelFileError(
                f"{model.source}: {model.prefix}merges holds {shown(merge)}; "
                "allowed: two texts with a space between, or a list of two"
            )
        left, right = (part.replace(" ", _SPACE_STAND_IN) for part in parts)
        pairs.append((left, right))
    try:
        "".join(left + right for left, right in pairs).encode()
    except UnicodeEncodeError:
        raise ModelFileError(
            f"{model.source}: {model.prefix}merges holds lone surrogates; allowed: Unicode text"
        ) from None
    return pairs
