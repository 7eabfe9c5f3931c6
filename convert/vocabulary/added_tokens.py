"""Tokens beside the main vocabulary: the union of what all files in a folder list.

Every file counts, since programs that save a tokenizer differ in the files that they write. The
``*_vocabulary`` files know what becomes of the tokens in GGUF.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.tokenizer_settings import (
    TokenizerSettings,
    checked_id,
    looks_special,
)
from edgellama.convert.vocabulary.vocabulary import MAX_TOKENS, Token
from edgellama.quant.vocabulary.added_tokens import AddedTokenRules
from edgellama.quant.vocabulary.vocabulary import TokenType

# In the order in which transformers gives ids to tokens that have none.
_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True)
class AddedToken:
    """A token as a file writes it; ``special`` ones are never part of plain text."""

    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


def added_tokens(settings: TokenizerSettings, vocab: Mapping[str, int]) -> dict[int, AddedToken]:
    """All added tokens by id; ``vocab``: ids of the vocabulary proper.

    As in transformers, the ids of tokenizer.json count before those of other files, and the flags
    of tokenizer_config.json's; a token whose text the vocabulary has keeps its id there. Tokens
    without an id get the next one. What one file calls special is special.
    """
    listed: dict[str, AddedToken] = {}
    for token in _listed(settings):
        if token.text not in listed or token != AddedToken(token.text, special=True):
            listed[token.text] = token
    in_decoder = list(_in_decoder(settings.settings))
    in_tokenizer = list(_in_tokenizer(settings.tokenizer))
    saved = list(_in_added_tokens(settings.added, listed))
    ids = {token.text: number for number, token in [*saved, *in_decoder, *in_tokenizer]}
    ids = {text: vocab.get(text, number) for text, number in ids.items()}
    following = max([-1, *vocab.values(), *ids.values()]) + 1
    tokens = _by_text(token for _, token in [*saved, *in_tokenizer, *in_decoder])
    for text, token in listed.items():
        tokens[text] = replace(tokens.get(text, token), special=True)
    by_id = {}
    for text, token in tokens.items():
        if text not in ids:
            ids[text] = vocab.get(text, following)
            following += ids[text] == following
        by_id[ids[text]] = token
    return dict(sorted(by_id.items()))


def _by_text(tokens: Iterable[AddedToken]) -> dict[str, AddedToken]:
    """Tokens by text, in the order of the last that has it, which decides the flags."""
    found: dict[str, AddedToken] = {}
    for token in tokens:
        known = found.pop(token.text, token)
        found[token.text] = replace(token, special=known.special or token.special)
    return found


def rules_of(
    added: Mapping[int, AddedToken],
    tokens: Sequence[Token],
    vocab: Mapping[str, int],
    *,
    found_in_text: Collection[int],
    normalizer: str = "",
) -> AddedTokenRules:
    """How GGUF's tokens are looked for; ``found_in_text``: ids for ``AddedTokenRules.added``."""
    kinds = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    kept = {i: token for i, token in added.items() if i < len(tokens) and tokens[i].type in kinds}
    ids = {name: frozenset(i for i, t in kept.items() if getattr(t, name)) for name in _FLAGS}
    return AddedTokenRules(
        added=frozenset(found_in_text),
        piece=frozenset(i for i, token in kept.items() if _is_piece(token.text, i, vocab)),
        normalizer=normalizer if ids["normalized"] else "",
        **ids,
    )


def _is_piece(text: str, token: int, vocab: Mapping[str, int]) -> bool:
    """Whether merging can make a token of text in which it was not found.

    What looks like a control token is never made.
    """
    if vocab.get(text) != token or looks_special(text):
        return False
    cuts = range(1, len(text))
    return len(text) == 1 or any(text[:cut] in vocab and text[cut:] in vocab for cut in cuts)


def user_defined(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """The user-defined ones among GGUF's tokens, with their ids."""
    return ((i, token) for i, token in enumerate(tokens) if token.type == TokenType.USER_DEFINED)


def _in_decoder(settings: Fields) -> Iterator[tuple[int, AddedToken]]:
    """``added_tokens_decoder`` of tokenizer_config.json."""
    decoder = settings.fields("added_tokens_decoder")
    for key in decoder.values:
        if not key.isascii() or not key.isdigit() or len(key) > len(str(MAX_TOKENS)):
            raise settings.error("added_tokens_decoder", "an object with token ids as keys")
        yield int(key), _token(decoder.fields(key))


def _in_tokenizer(tokenizer: Fields) -> Iterator[tuple[int, AddedToken]]:
    for token in tokenizer.objects("added_tokens"):
        yield checked_id(token, "id"), _token(token)


def _in_added_tokens(
    added: Fields, listed: Mapping[str, AddedToken]
) -> Iterator[tuple[int, AddedToken]]:
    """added_tokens.json, which has no flags."""
    for text in added.values:
        added.checked_text(text, text)
        special = text in listed
        yield checked_id(added, text), AddedToken(text, special, normalized=not special)


def _listed(settings: TokenizerSettings) -> Iterator[AddedToken]:
    """Tokens with a role, and special tokens without one, which come without ids."""
    files = (settings.settings, settings.special_tokens_map)
    roles = [name for fields in files for name in fields.values if name.endswith("_token")]
    for name in (*_ROLES, *(name for name in roles if name not in _ROLES)):
        for fields in files:
            yield from _one(fields, name)
    for fields in files:
        for name in _LISTS:
            yield from _several(fields, name)


def _one(fields: Fields, name: str) -> Iterator[AddedToken]:
    value = fields.values.get(name)
    if isinstance(value, str) and value:
        yield AddedToken(fields.checked_text(name, value), special=True)
    elif isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        yield replace(_token(fields.fields(name)), special=True)


def _several(fields: Fields, name: str) -> Iterator[AddedToken]:
    """A list of texts and objects, or an object of them by name."""
    value = fields.values.get(name)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for index, item in enumerate(items):
        yield from _one(Fields({name: item}, fields.source, f"{fields.prefix}[{index}] of "), name)


def _token(fields: Fields) -> AddedToken:
    text = fields.text("content")
    if text is None:
        raise fields.error("content", "a string")
    special = fields.flag("special", False)
    flags = {name: fields.flag(name, False) for name in _FLAGS}
    if "normalized" not in fields.values:
        flags["normalized"] = not special
    return AddedToken(text, special, **flags)
