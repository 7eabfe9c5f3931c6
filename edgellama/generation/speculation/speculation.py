"""Whether and how the next tokens of a model's texts are guessed, for all sessions and batches.

Drafters make the guesses, and ``draft_width`` says how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from edgellama.generation.speculation.ngram_drafter import NGramDrafter
from edgellama.quant.errors import InvalidOptionError

if TYPE_CHECKING:
    from edgellama.engine.scheduling.cancellation import CancelToken
    from edgellama.engine.text_engine import TextEngine
    from edgellama.generation.speculation.drafter import Drafter

SpeculationMode: TypeAlias = Literal["auto"] | bool
"""Guess where that is faster and nobody sees the guesses, always where it is faster, or never."""

GAIN_BESIDE_A_MODEL = 2.0
"""Tokens per time from which on a text's own repetitions are better than a model's guesses."""


class Speculation:
    """Makes the drafters of a model's texts."""

    def __init__(
        self, engine: TextEngine, mode: SpeculationMode = "auto", draft: TextEngine | None = None
    ) -> None:
        """``mode``: of texts that do not say their own; ``draft``: a smaller model that guesses."""
        self._engine = engine
        self._mode = mode
        self._draft = draft

    def drafter(
        self,
        mode: SpeculationMode | None,
        num_tokens: int,
        context_length: int,
        cancel: CancelToken,
        expected: Sequence[int] = (),
    ) -> Drafter | None:
        """What guesses for a text of about ``num_tokens`` with its prompt; None: nobody.

        ``expected`` are tokens that the text is likely to resemble.
        """
        mode = self._mode if mode is None else mode
        # Hooks would see tokens that are refused afterwards.
        if mode is False or (mode == "auto" and self._engine.hooks):
            return None
        costs = self._engine.scheduler.costs
        gain = () if self._draft is None else (GAIN_BESIDE_A_MODEL,)
        ngrams: Drafter = NGramDrafter(num_tokens + len(expected), costs, *gain)
        if expected:
            from edgellama.generation.speculation.predicted import PredictedDrafter

            ngrams = PredictedDrafter(ngrams, expected)
        if self._draft is None:
            return ngrams
        from edgellama.generation.speculation.draft_model import BothDrafters, ModelDrafter

        return BothDrafters(ngrams, ModelDrafter(self._draft, costs, context_length, cancel))


def speculation_mode(value: Any) -> SpeculationMode | None:
    """The option as it is given; InvalidOptionError for anything else."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value == "auto"):
        return cast("SpeculationMode | None", value)
    raise InvalidOptionError(f'speculation is {value!r:.80}; allowed: True, False or "auto"')
