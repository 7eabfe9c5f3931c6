"""How a BPE tokenizer cuts text into words before it merges, by its pattern's name.

The rules are in the vocabulary's room. Merging the words is left to byte_pair_merge.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.vocabulary.split_patterns import SPLIT_RULES, SplitRule
from edgellama.text.tokenizer.ascii_patterns import ascii_pattern


class Splitter:
    """A rule at work."""

    def __init__(self, rule: SplitRule) -> None:
        self._rule = rule

    @cached_property
    def _compiled(self) -> list[Any]:
        regex: Any = import_module("regex")  # late: 20 ms; it has no type stubs
        return [regex.compile(f"({pattern})") for pattern in self._rule.patterns]

    @cached_property
    def _compiled_for_ascii(self) -> list[Any]:
        found = [ascii_pattern(pattern) for pattern in self._rule.patterns]
        return self._compiled if None in found else found

    def split(self, text: str) -> list[str]:
        """The words of a text; joined, they are the text."""
        words = [text]
        for pattern in self._compiled_for_ascii if text.isascii() else self._compiled:
            words = [part for word in words for part in pattern.split(word) if part]
        return words


def split_rule(name: str) -> SplitRule:
    """The rule of a ``tokenizer.ggml.pre``; UnsupportedModelError lists the known names."""
    rule = SPLIT_RULES.get(name)
    if rule is None:
        known = ", ".join(sorted(SPLIT_RULES))
        raise UnsupportedModelError(f"tokenizer.ggml.pre is {name!a:.80}; known: {known}")
    return rule
