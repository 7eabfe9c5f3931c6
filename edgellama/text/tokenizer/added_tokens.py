"""Finds added tokens in a text before it is cut into words, as Hugging Face's tokenizers do.

``quant.vocabulary.added_tokens`` reads the rules; the tokenizer cuts the text between the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module

from edgellama.quant.records import dataclass
from edgellama.quant.vocabulary.added_tokens import AddedTokenRules

SPACE_SYMBOL = "\N{LOWER ONE EIGHTH BLOCK}"
# Unicode's White_Space; Python's own idea of it has four control characters more.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_WORD_CHARACTER = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]"


@dataclass(frozen=True)
class Stretch:
    """A piece of text between added tokens.

    ``is_first``: nothing of the text comes before it. ``has_prefix``: a token was found by what
    precedes it, so that this piece is past the place where a space would go.
    """

    text: str
    is_first: bool = True
    has_prefix: bool = False


class AddedTokenMatcher:
    """Cuts text at some of a vocabulary's tokens: the leftmost and then the longest wins."""

    def __init__(self, ids_by_text: Mapping[str, int], rules: AddedTokenRules) -> None:
        """``ids_by_text``: the tokens to look for."""
        plain = {t: i for t, i in ids_by_text.items() if i not in rules.normalized}
        normalized = {t: i for t, i in ids_by_text.items() if i in rules.normalized}
        passes = [_Pass(plain, rules, "")] if plain else []
        if normalized:
            passes.append(_Pass(normalized, rules, rules.normalizer))
        self._passes = passes

    def split(self, stretch: Stretch) -> list[Stretch | int]:
        """The tokens' ids and the stretches between them; empty stretches are left out."""
        parts: list[Stretch | int] = [stretch] if stretch.text else []
        for one in self._passes:
            parts = [
                piece
                for part in parts
                for piece in ([part] if isinstance(part, int) else one.split(part))
            ]
        return parts


class _Pass:
    """Tokens that are looked for together."""

    def __init__(self, ids_by_text: Mapping[str, int], rules: AddedTokenRules, form: str) -> None:
        """``form``: what the text counts as, one of NORMALIZERS."""
        self._rules = rules
        self._prepends = form == "prepend"
        # Where spaces become the space symbol, they are no white space any more.
        self._white_space = WHITE_SPACE.replace(" ", "") if form else WHITE_SPACE
        self._written = _with_symbols if form else str
        self._ids = {self._written(text): token for text, token in ids_by_text.items()}
        escaped = _either_space if form else re.escape
        longest_first = sorted(self._ids, key=len, reverse=True)
        pattern = f"({'|'.join(map(escaped, longest_first))})"
        before = rf"(?:\A|[ {SPACE_SYMBOL}])" if self._prepends else ""
        self._pattern = re.compile(before + pattern)
        self._is_word: Callable[[str], object] = lambda _: None
        if rules.single_word.intersection(self._ids.values()):
            self._is_word = import_module("regex").compile(_WORD_CHARACTER).match

    def split(self, stretch: Stretch) -> Iterator[Stretch | int]:
        """The parts of one stretch that has text."""
        text, end = stretch.text, 0
        for start, stop, token, leaves_prefix in self._matches(text):
            if end < start or leaves_prefix:
                yield self._between(stretch, end, max(end, start))
            yield token
            end = stop
        if end < len(text):
            yield self._between(stretch, end, len(text))

    def _matches(self, text: str) -> Iterator[tuple[int, int, int, bool]]:
        """Start and end of each token, with the white space that it takes, and its id.

        Last, whether a space of the text's own led to it, so that the one in front is left.
        """
        rules, taken = self._rules, 0
        for found in self._pattern.finditer(text):
            start, stop = found.span()
            token = self._ids[self._written(found[1])]
            leaves_prefix = self._prepends and start == 0 < found.start(1)
            if token in rules.single_word and (
                (start > 0 and self._is_word(text[start - 1]))
                or (stop < len(text) and self._is_word(text[stop]))
            ):
                continue
            if token in rules.lstrip:
                start = max(start, taken)
                while start > taken and text[start - 1] in self._white_space:
                    start -= 1
                if start >= stop:  # all of it went to the token before
                    continue
            if token in rules.rstrip:
                while stop < len(text) and text[stop] in self._white_space:
                    stop += 1
            yield start, stop, token, leaves_prefix
            taken = stop

    def _between(self, stretch: Stretch, start: int, end: int) -> Stretch:
        return Stretch(
            stretch.text[start:end],
            is_first=stretch.is_first and start == 0,
            has_prefix=stretch.has_prefix or (self._prepends and start > 0),
        )


def _with_symbols(text: str) -> str:
    return text.replace(" ", SPACE_SYMBOL)


def _either_space(text: str) -> str:
    """A pattern of a text whose spaces may be either character."""
    return re.escape(text).replace(re.escape(SPACE_SYMBOL), f"[ {SPACE_SYMBOL}]")
