"""A user's choice of where attention is computed, checked.

``late_placement`` and ``placement`` act on it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import is_whole
from edgellama.quant.records import dataclass

AttentionMode: TypeAlias = Literal["cpu", "cuda", "auto"]
"""On the CPU, on a graphics card, or there from the length on from which it is faster there."""

SHORTEST_AUTO = 2048
"""Tokens up to which nobody asks under "auto" whether there is a card."""


@dataclass(frozen=True)
class AttentionChoice:
    """A user's choice; ``gpu``: which card, ``gpu_memory``: bytes of it at most."""

    mode: AttentionMode = "auto"
    gpu: int | None = None
    gpu_memory: int | None = None

    def __post_init__(self) -> None:
        """InvalidOptionError for what cannot be."""
        modes = get_args(AttentionMode)
        if not isinstance(self.mode, str) or self.mode not in modes:
            allowed = ", ".join(modes)
            raise InvalidOptionError(f"attention is {shown(self.mode)}; allowed: {allowed}")
        for name in ("gpu", "gpu_memory"):
            value = getattr(self, name)
            if value is not None and not is_whole(value, 0):
                what = "bytes from 0" if name == "gpu_memory" else "the number of a card, from 0"
                raise InvalidOptionError(f"{name} is {shown(value)}; allowed: {what}")
            if value is not None and self.mode == "cpu":
                raise InvalidOptionError(f'{name} is {value} and attention is "cpu": choose one')

    @property
    def is_for_cards(self) -> bool:
        """Whether a card may be used."""
        return self.mode != "cpu"


ON_CPU = AttentionChoice("cpu")
