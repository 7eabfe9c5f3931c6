"""The tokens of infilling, by the names that model families give them.

A family counts only if a vocabulary has all of its marks, since some of them are ordinary words.
``edgellama.text.infill`` makes the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

MARKS = ("fim_pre", "fim_suf", "fim_mid")
"""What stands before the prefix, before the suffix and before the text between them: GGUF's roles.

The other roles are tokens at which that text ends: padding, and what begins another file.
"""
LEGACY_ROLES: Mapping[str, str] = MappingProxyType(
    dict(zip(MARKS, ("prefix", "suffix", "middle"), strict=True))
)
"""The names that GGUF once had for the marks; older readers know, and older files have, only
these."""
END_ROLES = ("fim_pad", "fim_rep", "fim_sep")
ROLE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **{legacy: role for role, legacy in LEGACY_ROLES.items()},
        **{role: role for role in (*MARKS, *END_ROLES)},
    }
)
"""Roles by the names of GGUF's keys; of a role's keys the one that counts comes last."""


def _family(*marks: str, **ends: str) -> Mapping[str, str]:
    return MappingProxyType({**dict(zip(MARKS, marks, strict=True)), **ends})


INFILL_NAMES: Sequence[Mapping[str, str]] = (
    _family("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama
    _family(
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        fim_pad="<|fim_pad|>",
        fim_rep="<|repo_name|>",
        fim_sep="<|file_sep|>",
    ),
    _family(
        *("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        fim_pad="<fim_pad>",
        fim_rep="<repo_name>",
        fim_sep="<file_sep>",
    ),
    _family("<fim-prefix>", "<fim-suffix>", "<fim-middle>", fim_pad="<fim-pad>"),
    # DeepSeek Coder, a Llama in all but its vocabulary.
    _family(
        *("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>"),
        "<\uff5cfim\u2581end\uff5c>",
    ),
    _family("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    _family("<PRE>", "<SUF>", "<MID>"),
)
"""The texts of a family's tokens by role."""
MISTRAL_NAMES = _family("[PREFIX]", "[SUFFIX]", "[MIDDLE]")
"""Codestral's, which it puts in an order of its own: suffix, prefix, and nothing behind it."""


def infill_ids(
    ids_by_text: Mapping[str, int], families: Sequence[Mapping[str, str]] = INFILL_NAMES
) -> dict[str, int]:
    """The ids of the first family whose marks a vocabulary has, by role; empty if it has none."""
    for family in families:
        ids = {role: ids_by_text[text] for role, text in family.items() if text in ids_by_text}
        if all(mark in ids for mark in MARKS):
            return ids
    return {}


def found_infill_ids(tokens: Iterable[bytes], declared: Mapping[str, int]) -> dict[str, int]:
    """A vocabulary's ids by role: those that its file declares, else by well-known names.

    Empty if it has none; without ``fim_mid`` if no token stands before the wanted text.
    """
    families = (*INFILL_NAMES, MISTRAL_NAMES)
    texts = {text.encode(): text for family in families for text in family.values()}
    by_text = {texts[token]: number for number, token in enumerate(tokens) if token in texts}
    ids = {**infill_ids(by_text), **declared}
    if all(mark in ids for mark in MARKS):
        return ids
    mistral = infill_ids(by_text, (MISTRAL_NAMES,))
    return {role: token for role, token in mistral.items() if role != "fim_mid"}
