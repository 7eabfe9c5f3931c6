"""Guesses from the text itself: what followed the same words before may follow again.

It follows an earlier place of the text as long as both agree, and picks it up again a few tokens
after a difference, as an edited text does with its original.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.engine.scheduling.step_costs import StepCosts
from edgellama.generation.speculation.draft_width import NEEDED_GAIN, Acceptance, DraftAccount
from edgellama.generation.speculation.ngram_index import LENGTHS, NGramIndex

PRIORS = (0.5, 0.4, 0.6, 0.75, 0.85, 0.9)
"""How likely a guess is right after 0 or 1, 2, 4, 8, 16, 32 tokens that were the same, at first."""
KINDS = (0, *(min(same.bit_length(), len(PRIORS)) - 1 for same in range(1, 33)))
"""Which of PRIORS is meant, by the number of tokens that were the same."""
LONGEST_DRAFT = 11
IDLE_AFTER, IDLE_STRIDE = 24, 4
"""After so many tokens without a draft the text is searched every few tokens, since a search takes
several times as long where a step of the model has driven it out of the caches."""
RESUMED_WITHIN = 12
"""Tokens of the place that was followed, in which the text's last token is looked for."""


class NGramDrafter:
    """Guesses for one text."""

    def __init__(self, num_tokens: int, costs: StepCosts, needed_gain: float = NEEDED_GAIN) -> None:
        """``num_tokens``: about how long the text becomes; ``costs``: of steps of the engine."""
        self._index = NGramIndex(num_tokens)
        self._costs = costs
        self._account = DraftAccount(needed_gain)
        self._kinds = [Acceptance(prior) for prior in PRIORS]
        self._num_seen = 0
        self._num_drafted = self._num_idle = 0
        # ``_place``: where in the text its next token is guessed to stand; ``_num_same``: how many
        # tokens before that place are those at the end.
        self._place = self._num_same = 0
        # ``_lost``: where the text stopped repeating a place that was followed; 0 for none.
        self._lost = 0

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to ``most`` tokens that followed where the text was the same, as many as pay off."""
        self._num_idle += 1
        if self._num_idle > IDLE_AFTER and self._num_idle % IDLE_STRIDE:
            self._num_drafted = self._place = self._num_same = 0
            return ()
        costs, num_new = self._costs.table, len(tokens) - self._num_seen
        if self._num_seen and num_new > 0:
            self._learn(tokens)
            self._account.settle(num_new, self._num_drafted, costs)
        if len(costs) <= 2:
            # Steps that many sequences share have no room for guesses, so no search is made.
            self._num_seen = self._num_drafted = self._place = self._num_same = 0
            self._num_idle = 0
            return ()
        self._num_seen = len(tokens)
        self._num_drafted = 0
        self._look(tokens)
        if not self._place:
            return ()
        likely = [kind.probability for kind in self._kinds]
        first, most = self._num_same, min(most, LONGEST_DRAFT)
        probabilities = [
            likely[KINDS[min(same, len(KINDS) - 1)]] for same in range(first, first + most)
        ]
        self._num_drafted = self._account.width(probabilities, costs)
        if self._num_drafted:
            self._num_idle = 0
        return self._continuation(tokens, self._num_drafted)

    def _learn(self, tokens: Sequence[int]) -> None:
        """Compare what was guessed, also where it was not computed, with what has come."""
        if not self._place:
            return
        for position in range(self._num_seen, len(tokens)):
            is_right = tokens[self._place] == tokens[position]
            self._kinds[KINDS[min(self._num_same, len(KINDS) - 1)]].note(is_right)
            if not is_right:
                self._lost, self._place, self._num_same = self._place, 0, 0
                return
            self._place += 1
            self._num_same += 1

    def _look(self, tokens: Sequence[int]) -> None:
        """Find the best place to follow."""
        if self._num_same >= LENGTHS[-1]:
            return
        place, num_same = self._index.find(tokens, max(self._num_same, 1))
        if place:
            self._place, self._num_same = place, num_same
        elif not self._place and self._lost:
            near = tokens[self._lost : min(self._lost + RESUMED_WITHIN, len(tokens) - 1)]
            if tokens[-1] in near:
                self._place, self._num_same = self._lost + near.index(tokens[-1]) + 1, 1
                self._lost = 0

    def _continuation(self, tokens: Sequence[int], count: int) -> list[int]:
        """The tokens from the place on; behind the text's end its guessed ones follow."""
        found = list(tokens[self._place : self._place + count])
        while len(found) < count:
            found.append(found[self._place + len(found) - len(tokens)])
        return found
