"""Plans a step: a few tokens of every text, pieces of long prompts, or both.

It knows works and the limits of a step. The scheduler decides when a step runs, and for whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from edgellama.engine.program.key_splits import MAX_TOKEN_SPLITS
from edgellama.engine.scheduling.work import Work
from edgellama.engine.steps.segments import (
    MAX_SEGMENTS,
    Segment,
    num_token_splits,
)
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS

SHARED_PROMPT_TOKENS = 128
"""Tokens of long prompts in a step while others wait for theirs."""
Chosen: TypeAlias = "list[tuple[Work, Segment]]"


class Room(NamedTuple):
    """What a step still has room for: tokens, and parts of their keys."""

    num_tokens: int
    num_splits: int

    def without(self, segment: Segment) -> Room:
        """What is left beside a segment."""
        return Room(
            self.num_tokens - segment.num_tokens, self.num_splits - num_token_splits(segment)
        )


class StepPlanner:
    """Chooses segments for steps of up to ``step_tokens`` tokens; prompts come in turns."""

    def __init__(self, step_tokens: int, *, may_mix: bool, are_all_split: bool) -> None:
        """``may_mix``: a step may have long segments beside short ones.

        ``are_all_split``: the keys of all tokens may be cut into parts, of prompts, too.
        """
        self.step_tokens = step_tokens
        self._may_mix = may_mix
        self._are_all_split = are_all_split
        self._turn = 0

    def short_segments(self, works: Sequence[Work]) -> Chosen:
        """A few tokens of as many works as fit; those that have waited longest come first.

        All of them are over pages of one layout.
        """
        chosen: Chosen = []
        room = self._room
        for work in _alike(works):
            segment = work.segment(self.step_tokens)
            assert segment is not None
            if len(works) == 1:
                return [(work, segment)]
            room = room.without(segment)
            if chosen and (min(room) < 0 or len(chosen) == MAX_SEGMENTS):
                break
            chosen.append((work, segment))
        return chosen

    def long_segments(
        self, works: Sequence[Work], is_shared: bool, room: Room | None = None
    ) -> Chosen:
        """Pieces of long prompts; where callers differ, another prompt's comes first every time.

        ``is_shared``: somebody else waits, so they are short. ``room``: that of a step, or less.
        """
        room, first = room or self._room, 0
        if any(work.is_for_another_caller_than(works[0]) for work in works):
            self._turn += 1
            first = self._turn % len(works)
        if is_shared:
            room = room._replace(num_tokens=min(SHARED_PROMPT_TOKENS, room.num_tokens))
        chosen: Chosen = []
        for work in _alike([*works[first:], *works[:first]]):
            split_room = room.num_splits if self._are_all_split else None
            segment = work.segment(room.num_tokens, split_room)
            if segment is not None:
                chosen.append((work, segment))
                room = room.without(segment)
        return chosen

    def mixed_segments(
        self, short: Sequence[Work], long: Sequence[Work], is_shared: bool
    ) -> Chosen:
        """Short segments and pieces of long prompts for one step, which reads the weights once.

        Empty where they must take turns: a single text keeps the bits that it has alone while
        others' prompts are read, and beside very many others no page of a prompt has room.
        """
        pool = long[0].cache.pool
        is_alike = all(work.cache.pool is pool for work in (*short, *long))
        if not self._may_mix or not is_alike or (is_shared and len(short) == 1):
            return []
        chosen, room = self.short_segments(short), self._room
        for _, segment in chosen:
            room = room.without(segment)
        if min(room) < PAGE_POSITIONS:
            return []
        pieces = self.long_segments(long, is_shared, room)
        return [*chosen, *pieces] if pieces else []

    @property
    def _room(self) -> Room:
        """The room of a whole step."""
        return Room(self.step_tokens, MAX_TOKEN_SPLITS)


def _alike(works: Sequence[Work]) -> Sequence[Work]:
    """The works whose keys and values lie as those of the first do."""
    pool = works[0].cache.pool
    return [work for work in works if work.cache.pool is pool]
