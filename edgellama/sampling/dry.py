"""DRY ("don't repeat yourself"): a token that would continue a repetition becomes less likely.

Source: p-e-w, https://github.com/oobabooga/text-generation-webui/pull/5677. The penalty grows with
the length of the repetition, so loops break while names and phrases may come again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.sampling.filters import Indices, Logits, Mask

Tokens: TypeAlias = npt.NDArray[np.int64]
Breaks: TypeAlias = Callable[[int], bool]
"""Whether sequences end at a token."""

FIRST_ROOM = 256
LARGEST_PENALTY = 1e30
"""Beyond it a float32 logit could overflow; such a token is not chosen anyway."""
LONGEST = 300
"""Tokens of a repetition that are counted beyond those allowed: any usual base has reached far more
than logits differ by, and a text that repeats itself for long takes no seconds a token."""
MANY = 64
"""One place in so many is many."""
LARGEST_POWER = 1e300
"""Beyond it a power of ``dry_base`` could overflow, however small its multiplier is."""


def repetition_penalties(
    history: Tokens,
    broken: Mask,
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
) -> tuple[Indices, Logits]:
    """Tokens that carry on a repetition, and what the logit of each loses.

    ``history``: int64 tokens so far; ``broken``: bool, where in it sequences end, at tokens that
    are never weakened themselves. A token that has followed the last ``length`` tokens before
    loses ``multiplier * base ** (length - allowed_length)``, if ``length`` is at least
    ``allowed_length``; the exponent grows to LONGEST at most.
    """
    limit = allowed_length + min(_largest_exponent(multiplier, base), LONGEST)
    lengths = repeated_lengths(history, broken, allowed_length, limit)
    tokens = np.fromiter(lengths, dtype=np.intp, count=len(lengths))
    repeated = np.fromiter(lengths.values(), dtype=np.float64, count=len(lengths))
    return tokens, (multiplier * base ** (repeated - allowed_length)).astype(np.float32)


def repeated_lengths(
    history: Tokens, broken: Mask, shortest: int = 1, longest: int | None = None
) -> dict[int, int]:
    """By token: the length of the longest end of ``history`` that it has followed before.

    Lengths below ``shortest`` are left out; none is counted beyond ``longest``.
    """
    last = len(history) - 1
    if last < 1 or broken[last]:
        return {}
    followers = history[1:]
    # Places where such an end may have come to its own end, before the token that followed it.
    places = (history[:last] == history[last]) & ~broken[1:]
    lengths: dict[int, int] = {}
    length = 1
    # Many places are compared in one go, and few one by one.
    while np.count_nonzero(places) > last // MANY and not _ends(broken, last, length, longest):
        going_on = np.zeros(last, np.bool_)
        going_on[length:] = places[length:] & (history[: last - length] == history[last - length])
        if length >= shortest:
            lengths.update(dict.fromkeys(followers[places & ~going_on].tolist(), length))
        places = going_on
        length += 1
    ends = np.flatnonzero(places)
    while len(ends):
        goes_on = np.zeros(len(ends), np.bool_)
        if not _ends(broken, last, length, longest):
            far = int(np.searchsorted(ends, length))
            goes_on[far:] = history[ends[far:] - length] == history[last - length]
        if length >= shortest:
            lengths.update(dict.fromkeys(followers[ends[~goes_on]].tolist(), length))
        ends = ends[goes_on]
        length += 1
    return lengths


def _ends(broken: Mask, last: int, length: int, longest: int | None) -> bool:
    """Whether nothing that is repeated is longer than ``length``."""
    return length == longest or length > last or bool(broken[last - length])


class GrowingTokens:
    """One growing history as arrays, of which only what is new is looked at."""

    def __init__(self, breaks: Breaks) -> None:
        self._breaks = breaks
        self._tokens: Tokens = np.empty(FIRST_ROOM, dtype=np.int64)
        self._broken: Mask = np.empty(FIRST_ROOM, dtype=np.bool_)
        self._length = 0

    def last(self, history: Sequence[int], count: int) -> tuple[Tokens, Mask]:
        """The last ``count`` tokens of ``history`` (-1: all), and where sequences end; views.

        ``history`` begins as in the last call, or is a shorter one.
        """
        length = len(history)
        if length < self._length:
            self._length = 0
        if length > len(self._tokens):
            self._tokens = np.resize(self._tokens, 2 * length)
            self._broken = np.resize(self._broken, 2 * length)
        new = history[self._length :]
        self._tokens[self._length : length] = new
        self._broken[self._length : length] = [self._breaks(token) for token in new]
        self._length = length
        first = 0 if count < 0 else max(0, length - count)
        return self._tokens[first:length], self._broken[first:length]


def _largest_exponent(multiplier: float, base: float) -> int:
    """The exponent of ``base`` at which the penalty reaches its largest value."""
    if base == 1:
        return 0
    largest = min(math.log(LARGEST_PENALTY) - math.log(multiplier), math.log(LARGEST_POWER))
    return max(0, math.floor(largest / math.log(base)))
