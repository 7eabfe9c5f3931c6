"""Whether and how the texts of a model are guessed ahead: what its sessions and batches share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgellama.generation.speculation.ngram_drafter import NGramDrafter
from edgellama.quant.errors import InvalidOptionError

if TYPE_CHECKING:
    from edgellama.engine.engine import Engine
    from edgellama.generation.speculation.drafter import Drafter

SpeculationMode: TypeAlias = Literal["auto"] | bool
"""Guess where that is faster and nobody sees the guesses, always where it is faster, or never."""


class Speculation:
    """Makes the drafters of a model's texts."""

    def __init__(self, engine: Engine, mode: SpeculationMode = "auto") -> None:
        """``mode``: of texts that do not say their own."""
        self._engine = engine
        self._mode = mode

    def drafter(self, mode: SpeculationMode | None, num_tokens: int) -> Drafter | None:
        """What guesses for a text of about ``num_tokens`` with its prompt; None: nobody."""
        mode = self._mode if mode is None else mode
        # Hooks would see tokens that are refused afterwards.
        if mode is False or (mode == "auto" and self._engine.hooks):
            return None
        return NGramDrafter(num_tokens, self._engine.scheduler.costs)


def speculation_mode(value: Any) -> SpeculationMode | None:
    """The option as it is given; InvalidOptionError for anything else."""
    if value is None or value == "auto" or isinstance(value, bool):
        mode: SpeculationMode | None = value
        return mode
    raise InvalidOptionError(f'speculation is {value!r:.80}; allowed: True, False or "auto"')
