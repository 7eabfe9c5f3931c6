"""How a model uses a graphics card, as its user reads it: ``Llama.card_use``.

What decides about it is known to ``placement`` and ``choice``.
"""

from __future__ import annotations

from edgellama.engine.card.choice import AttentionChoice, AttentionMode
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class CardUse:
    """How a model uses a graphics card now.

    ``mode`` is "cuda" or "auto", as the model was loaded. ``name`` is the card's, None until a text
    is long enough to ask for one, and where there is none; ``gpu`` is its number. ``used_bytes`` of
    its memory are taken, keys and values for the most part, and ``limit_bytes`` may be at most,
    None for all that is free. ``obstacle`` says why no card is used, or none any more; None if
    nothing is in the way.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=64, attention="cpu") as llama:
        ...     llama.card_use is None
        True
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
