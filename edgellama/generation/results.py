"""What a generation gives back: its pieces while it runs, the whole with figures at the end.

Plain frozen data; how tokens come about is known to decoding and session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Chunk:
    """One step's text. It may be empty, inside a character or a possible stop string.

    ``token`` is None for text that was held back and belongs to no further token.
    """

    text: str
    token: int | None


@dataclass(frozen=True)
class Statistics:
    """Counts and seconds of one generation; time that the caller spent is not counted.

    ``prefilled_tokens`` is the part of the prompt that was computed, the rest came from the
    session's cache. ``decoded_tokens`` counts the steps of one token after it.
    """

    prompt_tokens: int
    prefilled_tokens: int
    decoded_tokens: int
    prefill_s: float
    decode_s: float
    time_to_first_token_s: float

    @property
    def prefill_tokens_per_second(self) -> float:
        """Computed prompt tokens per second; 0.0 if none was computed."""
        return self.prefilled_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Generated tokens per second after the first; 0.0 if there was no more than one."""
        return self.decoded_tokens / self.decode_s if self.decode_s else 0.0


@dataclass(frozen=True)
class Generation:
    """A generated text.

    ``tokens`` are those of the text, without the prompt and without the token that ended it.
    ``finish_reason``: "stop" by an end token or a stop string, "length" by ``max_tokens`` or,
    with ``context_full``, because the context has no room left, "cancelled" by the caller.
    ``dropped_messages`` of the conversation went out of the prompt to make room for this reply.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    context_full: bool
    statistics: Statistics
    dropped_messages: int = 0
