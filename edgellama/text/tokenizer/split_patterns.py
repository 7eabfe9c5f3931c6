"""How a BPE tokenizer cuts text into words before it merges, by the name of its pattern.

``quant.vocabulary`` has the rules, ``byte_pair_merge`` merges the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.vocabulary.split_patterns import (
    BEFORE_THREES,
    SPLIT_RULES,
    THREES_TO_WORD_END,
    SplitRule,
)
from edgellama.text.tokenizer.ascii_patterns import ascii_pattern

THREES = (BEFORE_THREES, THREES_TO_WORD_END)
"""Patterns that cut digits into threes from their end."""
_DIGIT_RUN = re.compile(r"\d+")
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
        for source, pattern in zip(self._rule.patterns, patterns, strict=True):
            if source in THREES:
                words = [part for word in words for part in _threes(word, source) if part]
            else:
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


def _threes(text: str, pattern: str) -> Iterator[str]:
    """The same words as by one of THREES, where a library looks ahead to the end at each digit."""
    is_to_word_end = pattern == THREES_TO_WORD_END
    start = 0
    for run in _DIGIT_RUN.finditer(text):
        first, end = run.span()
        if is_to_word_end and end < len(text) and _word_character().match(text, end):
            continue
        cuts = [*([first, end] if is_to_word_end else []), *range(end - 3, first - 1, -3)]
        for cut in sorted(cuts):
            yield text[start:cut]
            start = cut
    yield text[start:]


@cache
def _word_character() -> Any:
    return import_module("regex").compile(r"[\p{L}\p{M}\p{N}\p{Pc}]")


def split_rule(name: str) -> SplitRule:
    """The rule of a ``tokenizer.ggml.pre``; UnsupportedModelError lists the known names."""
    rule = SPLIT_RULES.get(name)
    if rule is None:
        known = ", ".join(sorted(SPLIT_RULES))
        raise UnsupportedModelError(f"tokenizer.ggml.pre is {name!a:.80}; known: {known}")
    return rule
