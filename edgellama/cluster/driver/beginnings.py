"""What the stages still hold of texts, both running ones and ended ones.

If a new text begins like one of them, the stages share that beginning instead of computing it
again. Ended texts stay as long as running ones leave them room.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgellama.engine.pages.page_keys import shared_length

LEAST_SHARED = 16
"""Fewer tokens are computed as quickly as they are found."""


@dataclass(frozen=True)
class Held:
    """Tokens that stages hold under a number; ``origin`` stands for what else decides them."""

    number: int
    tokens: Sequence[int]
    origin: bytes


class LivingText(Protocol):
    """A sequence that goes on."""

    @property
    def length(self) -> int:
        """How many tokens it has."""
        ...

    @property
    def held(self) -> Held:
        """What stages hold of it."""
        ...


class Beginnings:
    """The beginnings of texts of one model. ``retire`` hears of numbers that are needed no more.

    ``origin``: what decides keys and values now, besides tokens and what texts themselves have.
    """

    def __init__(
        self, retire: Callable[[int], None], bytes_of: Callable[[int], int], limit_bytes: int
    ) -> None:
        """``limit_bytes``: what living and ended texts may take together."""
        self.retire, self.bytes_of = retire, bytes_of
        self.limit_bytes = limit_bytes
        self.origin = b""
        self._living: weakref.WeakSet[LivingText] = weakref.WeakSet()
        # Sequences end in finalizers, too, where no lock may be waited for.
        self._arrived: deque[Held] = deque()
        # Ended texts, those that were used least recently first.
        self._ended: OrderedDict[int, Held] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def ended_bytes(self) -> int:
        """What ended texts take, all stages together."""
        with self._lock:
            return self._ended_bytes()

    def enter(self, sequence: LivingText) -> None:
        """Note that a sequence has begun."""
        with self._lock:
            self._living.add(sequence)

    def leave(self, held: Held) -> None:
        """Note that a sequence has ended; may be called at any moment."""
        self._arrived.append(held)

    def find(self, prompt: Sequence[int], origin: bytes) -> tuple[int, int] | None:
        """The number under which most of a prompt's beginning is held, and how many tokens.

        None if it is not worth while.
        """
        with self._lock:
            self._take_arrived()
            best, most = 0, LEAST_SHARED - 1
            living = [sequence.held for sequence in self._living]
            for held in (*living, *self._ended.values()):
                if held.origin != origin or len(held.tokens) <= most:
                    continue
                if list(held.tokens[: most + 1]) == list(prompt[: most + 1]):
                    best, most = held.number, shared_length(held.tokens, prompt)
            if not best:
                return None
            if best in self._ended:
                self._ended.move_to_end(best)
            return best, most

    def change_origin(self, origin: bytes) -> None:
        """Something else decides keys and values from now on: what has ended is not found again."""
        with self._lock:
            self._take_arrived()
            while self._ended:
                self.retire(self._ended.popitem()[0])
            self.origin = origin

    def trim(self) -> None:
        """Let go of ended texts for which living ones leave no room, the longest unused first."""
        if not (self._ended or self._arrived):
            return
        with self._lock:
            self._take_arrived()
            living = sum(self.bytes_of(sequence.length) for sequence in self._living)
            while self._ended and living + self._ended_bytes() > self.limit_bytes:
                self.retire(self._ended.popitem(last=False)[0])

    def _take_arrived(self) -> None:
        """Keep sequences that have ended; one that goes on from another takes its place."""
        while self._arrived:
            new = self._arrived.popleft()
            for old in list(self._ended.values()):
                is_whole = shared_length(old.tokens, new.tokens) == len(old.tokens)
                if old.origin == new.origin and is_whole:
                    self.retire(self._ended.pop(old.number).number)
            self._ended[new.number] = new

    def _ended_bytes(self) -> int:
        return sum(self.bytes_of(len(held.tokens)) for held in self._ended.values())
