"""Tokens whose text may become a banned string: held until that is certain, or taken back.

It knows the text of each token, and can forget some. ``decoding`` chooses others in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgellama.sampling.filters import Mask
from edgellama.text.banned_strings import BannedStrings
from edgellama.text.tokenizer import StreamingDetokenizer
from edgellama.text.tokenizer.detokenizer import DetokenizerState, is_inside_character


class TokenText(NamedTuple):
    """A token and the text that became certain with it."""

    token: int
    text: str


class HeldTokens:
    """The last tokens of a text, as far as a banned string may begin in them."""

    def __init__(self, detokenizer: StreamingDetokenizer, banned: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._banned = BannedStrings(banned)
        self._held: list[TokenText] = []
        self._states: list[DetokenizerState] = []

    def add(self, token: int) -> tuple[list[TokenText], int]:
        """Tokens that are certain now, and how many of the last ones are taken back instead.

        These begin with the token at which a banned string begins.
        """
        self._states.append(self._detokenizer.state)
        self._held.append(TokenText(token, self._detokenizer.add(token)))
        text = "".join(held.text for held in self._held)
        start = self._banned.start(text)
        if start is not None:
            return [], self._take_back(self._place(start))
        return self.release(self._num_certain(text)), 0

    def release(self, count: int | None = None) -> list[TokenText]:
        """The first ``count`` of them, or all, which then are held no longer."""
        released = self._held[:count]
        del self._held[:count], self._states[:count]
        return released

    def ending(self, rest: str) -> str:
        """What an unfinished character at the end is shown as; nothing if that is banned."""
        text = "".join(held.text for held in self._held) + rest
        return rest if self._banned.start(text) is None else ""

    def _num_certain(self, text: str) -> int:
        """How many of the tokens, whose ``text`` is given, stay whatever comes."""
        num_held_before = None
        place = len(self._held)
        while place != num_held_before:
            num_held_before = place
            place = min(place, self._place(len(text) - self._banned.num_possible(text)))
            # Where what is held is taken back, what comes before it may begin a banned string.
            text = "".join(held.text for held in self._held[:place])
        return place

    def _place(self, start: int) -> int:
        """Which token the character at ``start`` belongs to, from its first byte on."""
        place, before = 0, 0
        for held in self._held:
            if before + len(held.text) > start:
                break
            before += len(held.text)
            place += 1
        # A character of several tokens becomes text with the last of them.
        while start == before and place and is_inside_character(self._state_before(place)):
            place -= 1
        return place

    def _state_before(self, place: int) -> DetokenizerState:
        return self._states[place] if place < len(self._states) else self._detokenizer.state

    def _take_back(self, place: int) -> int:
        count = len(self._held) - place
        self._detokenizer.state = self._states[place]
        del self._held[place:], self._states[place:]
        return count


class RefusedTokens:
    """Which tokens cannot stand at a place of a text, because a banned string began with them."""

    def __init__(self) -> None:
        self._by_place: dict[int, set[int]] = {}

    def add(self, place: int, token: int) -> None:
        """Refuse a token; what was refused behind ``place`` followed other tokens."""
        self._by_place = {at: kept for at, kept in self._by_place.items() if at <= place}
        self._by_place.setdefault(place, set()).add(token)

    def has(self, place: int, token: int) -> bool:
        """Whether a token is refused at a place."""
        return token in self._by_place.get(place, ())

    def allowed(self, place: int, vocab_size: int) -> Mask | None:
        """Which tokens may stand at a place (vocab_size,); None: all."""
        refused = self._by_place.get(place)
        if refused is None:
            return None
        allowed = np.ones(vocab_size, np.bool_)
        allowed[list(refused)] = False
        return allowed
