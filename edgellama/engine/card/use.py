"""What an engine tells of its graphics card."""

from __future__ import annotations

from edgellama.engine.card.choice import AttentionChoice, AttentionMode
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class CardUse:
    """How a model uses a graphics card now.

    Attributes:
        mode: "cuda" or "auto", as the model was loaded.
        name: The card's name; None until a text is long enough to ask for it, and without one.
        gpu: Its number.
        used_bytes: Bytes of its memory that are taken, keys and values for the most part.
        limit_bytes: The most that may be taken; None for all that is free.
        obstacle: Why no card is used, or none any more; None if nothing is in the way.
    """

    mode: AttentionMode
    name: str | None
    gpu: int | None
    used_bytes: int
    limit_bytes: int | None
    obstacle: str | None

    @classmethod
    def none(cls, choice: AttentionChoice, obstacle: Exception | None = None) -> CardUse:
        """Of a card that was not opened."""
        reason = None if obstacle is None else str(obstacle)
        return cls(choice.mode, None, choice.gpu, 0, choice.gpu_memory, reason)
