"""How a model uses a graphics card, for its user: ``Llama.card_use``.

``placement`` and ``choice`` decide about the use.
"""

from __future__ import annotations

from edgellama.engine.card.choice import AttentionChoice, AttentionMode
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class CardUse:
    """How a model uses a graphics card now.

    ``mode`` is "cuda" or "auto", as the model was loaded. ``name`` is the card's name and ``gpu``
    its number; both are None until a text is long enough to need a card, and if there is none.
    ``used_bytes`` of its memory are taken, mostly by keys and values; ``limit_bytes`` may be taken,
    None for all that is free. ``obstacle`` says why no card is used, or is None if nothing prevents
    it.

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
        """The use of a card that was not opened."""
        reason = None if obstacle is None else str(obstacle)
        return cls(choice.mode, None, choice.gpu, 0, choice.gpu_memory, reason)
