"""Guesses of a smaller model with the same vocabulary, which continues the text greedily.

It keeps its own sequence beside the text's. The length of a draft depends on how sure the model is
of each token, how often it was right when it was so sure, and what its steps cost.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from edgellama.generation.speculation.draft_width import Acceptance, DraftAccount
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgellama.engine.scheduling.cancellation import CancelToken
    from edgellama.engine.scheduling.step_costs import StepCosts
    from edgellama.engine.text_engine import TextEngine
    from edgellama.generation.speculation.drafter import Drafter

logger = logging.getLogger(__name__)

SURENESS = (0.3, 0.5, 0.7, 0.9)
"""Probabilities of the draft model's likeliest token that bound the kinds of its guesses."""
PRIORS = (0.25, 0.45, 0.65, 0.8, 0.95)
USUAL = 0.7
"""How often a guess is right whose sureness is not known yet, at first."""
MEMORY = 0.98
"""Of what was learnt about the draft model."""
ASSUMED_COST = 0.15
"""Of a draft model's step, in those of the model, as long as no time is known."""
LONGEST_DRAFT = 11
LOGITS_THAT_COUNT = 12.0
"""Logits so far below the largest add nothing to a probability that is only a guide."""


class ModelDrafter:
    """Guesses of a draft model for one text."""

    def __init__(
        self, engine: TextEngine, costs: StepCosts, context_length: int, cancel: CancelToken
    ) -> None:
        """``engine``: the draft model's; ``costs``: of steps of the model that is drafted for."""
        self._engine = engine
        self._costs = costs
        length = min(context_length, engine.config.context_length)
        self._cache = engine.new_cache(length)
        self._cancel = cancel
        self._account = DraftAccount()
        self._kinds = [Acceptance(prior, MEMORY) for prior in PRIORS]
        self._usual = Acceptance(USUAL, MEMORY)
        self._num_seen = 0
        self._draft: list[int] = []
        self._draft_kinds: list[int] = []
        self._spent = self._catch_up_s = 0.0
        self._is_lost = False

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to ``most`` tokens that the draft model would say, as many as pay off."""
        if self._is_lost:
            return ()
        try:
            return self._drafted(tokens, most)
        except EdgellamaError as error:
            # Only a cancellation ends the text; a draft model that fails must not.
            if self._cancel.cancelled:
                raise
            logger.warning("the draft model guesses no more: %s", error)
            self._is_lost = True
            return ()

    def _drafted(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        self._learn(tokens)
        self._num_seen = len(tokens)
        self._draft, self._draft_kinds, self._spent = [], [], 0.0
        most = min(most, LONGEST_DRAFT, self._cache.context_length - len(tokens))
        costs, guess_cost = self._costs.table, self._guess_cost()
        self._catch_up_s = 0.0
        probabilities: list[float] = []
        while len(probabilities) < most and not self._costs.is_shared:
            later = [self._usual.probability] * (most - len(probabilities))
            wanted = self._account.width([*probabilities, *later], costs, guess_cost)
            if wanted <= len(probabilities):
                break
            token, kind = self._guess(tokens)
            self._draft.append(token)
            self._draft_kinds.append(kind)
            probabilities.append(self._kinds[kind].probability)
        if not self._draft:
            return ()
        model_s = self._costs.one_token_s
        self._spent = guess_cost * len(self._draft)
        if model_s:
            self._spent += self._catch_up_s / model_s
        # Guesses that were made are paid for; which of them are worth a step is another question.
        width = self._account.width(probabilities, costs)
        del self._draft[width:], self._draft_kinds[width:]
        return self._draft

    def _learn(self, tokens: Sequence[int]) -> None:
        """Compare the draft with what has come, and settle what it has cost."""
        num_new = len(tokens) - self._num_seen
        if not self._num_seen or num_new <= 0:
            return
        for kind, guess, token in zip(
            self._draft_kinds, self._draft, tokens[self._num_seen :], strict=False
        ):
            self._kinds[kind].note(guess == token)
            self._usual.note(guess == token)
            if guess != token:
                break
        if not self._draft:
            for learnt in (*self._kinds, self._usual):
                learnt.forget()
        self._account.settle(num_new, len(self._draft), self._costs.table, self._spent)

    def _guess(self, tokens: Sequence[int]) -> tuple[int, int]:
        """The next token behind the text and the draft so far, and the kind of the guess."""
        if self._draft:
            coming = self._draft[-1:]
        else:
            self._catch_up(tokens)
            coming = list(tokens[-1:])
        logits = self._engine.forward(coming, self._cache, cancelled=self._cancel)[0]
        token = int(logits.argmax())
        return token, _kind(logits, token)

    def _catch_up(self, tokens: Sequence[int]) -> None:
        """Compute what the draft model has not read of the text; a prompt is not charged for."""
        is_prompt = not self._cache.length
        started = perf_counter()
        start = self._cache.reuse(tokens)
        if start < len(tokens) - 1:
            self._engine.forward(
                list(tokens[start:-1]), self._cache, logits="none", cancelled=self._cancel
            )
        if not is_prompt:
            self._catch_up_s = perf_counter() - started

    def _guess_cost(self) -> float:
        """A draft model's step in those of the model."""
        own, model = self._engine.scheduler.costs.one_token_s, self._costs.one_token_s
        return own / model if own and model else ASSUMED_COST


class BothDrafters:
    """Guesses out of the text where it repeats something at length, else of a draft model."""

    def __init__(self, own: Drafter, model: ModelDrafter) -> None:
        self._own, self._model = own, model

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to ``most`` tokens."""
        return self._own.draft(tokens, most) or self._model.draft(tokens, most)


def _kind(logits: npt.NDArray[np.float32], token: int) -> int:
    """Which of PRIORS a guess belongs to, by the probability that the draft model gives it."""
    largest = logits[token]
    near = logits[logits > largest - LOGITS_THAT_COUNT]
    probability = 1.0 / float(np.exp(near - largest).sum())
    return sum(probability >= bound for bound in SURENESS)
