"""How a BPE tokenizer cuts text into words before it merges, by its pattern's name.

The rules are in the vocabulary's room. Merging the words is left to byte_pair_merge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.vocabulary.split_patterns import SPLIT_RULES, SplitRule
from edgellama.text.tokenizer.ascii_patterns import ascii_pattern

MAX_CHARACTERS_AT_ONCE = 1 << 16
"""A longer text would keep other threads waiting: a library of patterns holds Python's lock."""


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

    def split(self, text: str) -> Iterable[str]:
        """The words of a text; joined, they are the text."""
        patterns = self._compiled_for_ascii if text.isascii() else self._compiled
        split = _split_at_once if len(text) <= MAX_CHARACTERS_AT_ONCE else _split_by_and_by
        words: Iterable[str] = [text]
        for pattern in patterns:
            words = split(pattern, words)
        return words


def _split_at_once(pattern: Any, texts: Iterable[str]) -> list[str]:
    return [part for text in texts for part in pattern.split(text) if part]


def _split_by_and_by(pattern: Any, texts: Iterable[str]) -> Iterator[str]:
    """The same words one at a time: other threads get their turn between them, and Ctrl-C."""
    for text in texts:
        end = 0
        for found in pattern.finditer(text):
            start, stop = found.span()
            if end < start:
                yield text[end:start]
            if start < stop:
                yield text[start:stop]
            end = stop
        if end < len(text):
            yield text[end:]


def split_rule(name: str) -> SplitRule:
    """The rule of a ``tokenizer.ggml.pre``; UnsupportedModelError lists the known names."""
    rule = SPLIT_RULES.get(name)
    if rule is None:
        known = ", ".join(sorted(SPLIT_RULES))
        raise UnsupportedModelError(f"tokenizer.ggml.pre is {name!a:.80}; known: {known}")
    return rule
