"""Split patterns for ASCII cut as the patterns that they stand for do."""

import re
import sys
import unicodedata

import regex
from hypothesis import given
from hypothesis import strategies as st

from edgellama.quant.vocabulary.split_patterns import SPLIT_RULES
from edgellama.text.tokenizer.ascii_patterns import ASCII, CATEGORIES, ascii_pattern

PATTERNS = sorted({pattern for rule in SPLIT_RULES.values() for pattern in rule.patterns})
PIECES = ("'ll", "'RE", "    ", "\n\n", " A", "Ab", "IMGIMG", "AZ", "<sentinel:1>", "123", "?!")


@given(st.lists(st.sampled_from([*map(chr, range(128)), *PIECES * 6]), max_size=30).map("".join))
def test_patterns_for_ascii_cut_alike(text: str) -> None:
    """Every known pattern has one for ASCII, and both give the same pieces of any ASCII text."""
    for pattern in PATTERNS:
        ours = ascii_pattern(pattern)
        if ours is None:  # Before Python 3.11, re knew no possessive quantifiers.
            assert sys.version_info < (3, 11) and re.search(r"[?+*]\+", pattern)
            continue
        assert ours.split(text) == regex.compile(f"({pattern})").split(text)


def test_categories_are_those_of_unicode() -> None:
    """Every character of ASCII stands in its general category, and nowhere else."""
    found = {character: name for name, some in CATEGORIES.items() for character in some}
    assert found == {character: unicodedata.category(character) for character in ASCII}
    assert sum(map(len, CATEGORIES.values())) == len(ASCII)


def test_what_is_not_known_is_left_alone() -> None:
    """Scripts, word boundaries and sets of sets are left to the library."""
    assert ascii_pattern(r"\p{Han}+") is None
    assert ascii_pattern(r"\bword") is None
    assert ascii_pattern(r"[[a-z]--[b]]") is None


def test_empty_sets_match_nothing_or_all() -> None:
    """A class without ASCII characters matches none, and its complement any."""
    nothing, all_of_it = ascii_pattern(r"[\p{Lm}\p{M}]"), ascii_pattern(r"[^\p{Lm}]")
    assert nothing is not None and nothing.search("aZ ~\n") is None
    assert all_of_it is not None and all_of_it.findall("a\n") == ["a", "\n"]
