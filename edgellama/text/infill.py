"""A prompt that asks a model for the text between a prefix and a suffix.

This module knows the order of the three. The vocabulary knows the tokens that mark them, and the
tokenizer turns text into tokens.
"""

from __future__ import annotations

from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.text.surrogates import well_formed
from edgellama.text.tokenizer.added_tokens import Stretch
from edgellama.text.tokenizer.base import Tokenizer


def infill_prompt(
    tokenizer: Tokenizer, prefix: object, suffix: object, *, suffix_first: bool = False
) -> list[int]:
    """The prompt's tokens, as the makers of Code Llama and of Codestral write it.

    The prefix is encoded as a text is, behind SentencePiece's space, the suffix without.

    Arguments:
        tokenizer: The model's.
        prefix: What stands before the text that is asked for.
        suffix: What stands behind it.
        suffix_first: Put the suffix before the prefix, in the order of Code Llama for that. Models
            that know only one order have theirs.

    Returns:
        The ids, with a BOS where the model wants one.

    Raises:
        UnsupportedModelError: The model has no tokens for infilling.
        InvalidOptionError: A prefix or suffix that is no text.

    Example: see ``Llama.fill``.
    """
    ids = tokenizer.infill_ids
    if not ids:
        raise UnsupportedModelError(
            "the model has no tokens for infilling, such as <PRE>, <SUF> and <MID>; models that "
            "were trained to fill gaps have them, such as Code Llama 7B and 13B"
        )
    before = tokenizer.encode_stretch(_opening(tokenizer, _text("prefix", prefix)))
    behind = tokenizer.encode_stretch(Stretch(_text("suffix", suffix), False, has_prefix=True))
    bos = tokenizer.special.bos_id if tokenizer.special.add_bos else None
    start = [] if bos is None else [bos]
    pre, suf, mid = ids["fim_pre"], ids["fim_suf"], ids.get("fim_mid")
    if mid is None:
        return [*start, suf, *behind, pre, *before]
    if suffix_first:
        return [*start, pre, suf, *behind, mid, *before]
    return [*start, pre, *before, suf, *behind, mid]


def _opening(tokenizer: Tokenizer, prefix: str) -> Stretch:
    """A prefix, which gets a space even where it begins with one, but not if it is empty."""
    if prefix and tokenizer.opens_with_space:
        return Stretch(f" {prefix}", has_prefix=True)
    return Stretch(prefix)


def _text(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidOptionError(f"{name} is {text!r:.80}; allowed: text")
    return well_formed(text)
