"""A prompt that asks a model for what stands between a prefix and a suffix.

Which tokens mark the three, and in which order they stand, is said here; what a tokenizer does
with the texts between them is its own knowledge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgellama.quant.errors import InvalidOptionError, TokenizerError, UnsupportedModelError
from edgellama.quant.vocabulary.infill_names import (
    END_ROLES,
    INFILL_NAMES,
    LEGACY_ROLES,
    MARKS,
    MISTRAL_NAMES,
    infill_ids,
)
from edgellama.quant.vocabulary.vocabulary import token_id
from edgellama.text.tokenizer.added_tokens import Stretch
from edgellama.text.tokenizer.base import Tokenizer, well_formed


@dataclass(frozen=True)
class InfillTokens:
    """The ids before the prefix, the suffix and the text between; None where none stands there.

    ``ends``: tokens at which that text ends, besides those that end every text.
    """

    prefix: int
    suffix: int
    middle: int | None
    ends: frozenset[int]

    def prompt(
        self, tokenizer: Tokenizer, prefix: str, suffix: str, *, suffix_first: bool = False
    ) -> list[int]:
        """The prompt, as the makers of Code Llama and of Codestral write it.

        The prefix is encoded as a text is, with SentencePiece's space before it, the suffix
        without. ``suffix_first``: the suffix stands before the prefix, in Code Llama's order for
        it; always so where no token stands before the text between.
        """
        for name, text in (("prefix", prefix), ("suffix", suffix)):
            if not isinstance(text, str):
                raise InvalidOptionError(f"{name} is {text!r:.80}; allowed: text")
        before = tokenizer.encode_stretch(_opening(tokenizer, well_formed(prefix)))
        behind = tokenizer.encode_stretch(Stretch(well_formed(suffix), False, has_prefix=True))
        bos = [tokenizer.special.bos_id] if tokenizer.special.add_bos else []
        start = [token for token in bos if token is not None]
        if self.middle is None:
            return [*start, self.suffix, *behind, self.prefix, *before]
        if suffix_first:
            return [*start, self.prefix, self.suffix, *behind, self.middle, *before]
        return [*start, self.prefix, *before, self.suffix, *behind, self.middle]


def _opening(tokenizer: Tokenizer, prefix: str) -> Stretch:
    """A prefix, which gets a space even where it begins with one, but not if it is empty."""
    if prefix and tokenizer.opens_with_space:
        return Stretch(f" {prefix}", has_prefix=True)
    return Stretch(prefix)


def infill_tokens(metadata: Mapping[str, object], tokenizer: Tokenizer) -> InfillTokens:
    """The tokens that the file declares, else those with well-known names.

    UnsupportedModelError for a vocabulary without.
    """
    families = (*INFILL_NAMES, MISTRAL_NAMES)
    by_text = tokenizer.ids_of_texts({text for family in families for text in family.values()})
    named = infill_ids(by_text)

    def ids(roles: Sequence[str]) -> list[int]:
        found = (_declared(metadata, role, tokenizer.vocab_size) for role in roles)
        pairs = zip(roles, found, strict=True)
        either = (named.get(role) if token is None else token for role, token in pairs)
        return [token for token in either if token is not None]

    marks = ids(MARKS)
    if len(marks) == len(MARKS):
        return InfillTokens(*marks, frozenset([*marks, *ids(END_ROLES)]))
    codestral = infill_ids(by_text, (MISTRAL_NAMES,))
    if codestral:
        prefix, suffix = codestral["fim_pre"], codestral["fim_suf"]
        return InfillTokens(prefix, suffix, None, frozenset(codestral.values()))
    raise UnsupportedModelError(
        "the model has no tokens for infilling, such as <PRE>, <SUF> and <MID>; models that were "
        "trained to fill gaps have them, such as Code Llama 7B and 13B"
    )


def _declared(metadata: Mapping[str, object], role: str, vocab_size: int) -> int | None:
    """The id under a role's key, or under its older one; what is no token counts as none."""
    for name in (role, LEGACY_ROLES.get(role)):
        try:
            token = token_id(metadata, f"tokenizer.ggml.{name}_token_id", vocab_size)
        except TokenizerError:
            continue
        if token is not None:
            return token
    return None
