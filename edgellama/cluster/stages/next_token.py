"""The next token of a sequence that was alone in the last call, too: only numbers are sent.

Such a call differs from the one before it only in token, position, random numbers and rows. The
stage remembers all else, so a token costs a few lines of Python at each end. If anything else
differs, or the stage does not remember, it is an ordinary call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.quant.array_types import FloatRows
from edgellama.sampling.choice_order import ChoiceOrder, OrderedChoices

MOST_CHANCES = 2
"""Random numbers that a choice takes at most."""


class NextToken(NamedTuple):
    """Token ``token`` of ``sequence`` at ``position``, for which all else is as it was.

    ``chances``: the random numbers of its choice; None where logits are wanted. ``rows`` as for
    ``StageCall``. No dataclass: making one of those takes five times as long.
    """

    sequence: int
    position: int
    token: int
    chances: tuple[float, ...] | None
    rows: FloatRows | None = None

    def with_rows(self, rows: FloatRows) -> NextToken:
        """The same for the next stage."""
        return NextToken(self.sequence, self.position, self.token, self.chances, rows)

    def followed(self) -> NextToken:
        """One that may come next: which token that is nobody knows."""
        return NextToken(self.sequence, self.position + 1, self.token, self.chances, self.rows)

    @classmethod
    def of(cls, sequence: int, position: int, token: int, order: ChoiceOrder | None) -> NextToken:
        """One whose order is like that of the token before."""
        return cls(sequence, position, token, None if order is None else order.chances[0])


@dataclass(frozen=True)
class LastCall:
    """What a stage remembers of its last call, which was of one sequence."""

    sequence: int
    cache: KVCache
    choices: OrderedChoices | None

    def row_of(self, given: NextToken, row: FloatRows) -> FloatRows | None:
        """What is answered where a step has left ``row``: the token, where one is to be chosen."""
        if self.choices is None:
            return row
        if given.chances is None:
            return None
        return self.choices.next_token(given.chances, row, self.cache.tokens)


def are_alike(order: ChoiceOrder | None, last: ChoiceOrder | None) -> bool:
    """Whether a token is chosen as the last was, but for its random numbers."""
    if order is None or last is None:
        return order is last
    is_same = order.plan is last.plan and order.breaking is last.breaking
    return is_same and not order.rules and len(order.chances) == 1
