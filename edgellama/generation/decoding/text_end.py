"""Why and where a text ends.

``decoding`` asks, and ``text_assembly`` finds stop strings.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgellama.generation.results import FinishReason

if TYPE_CHECKING:
    from edgellama.engine.scheduling.cancellation import CancelToken

logger = logging.getLogger(__name__)


class TextEnd:
    """Whether the end is reached, why, and by which token; leaving before it is a cancellation."""

    def __init__(self, max_tokens: int | None, context_length: int, cancel: CancelToken) -> None:
        self._max_tokens = max_tokens
        self._context_length = context_length
        self._cancel = cancel
        self.is_reached = False
        self._reason: FinishReason | None = None
        self._token: int | None = None

    def reach(self, reason: FinishReason, token: int | None = None) -> None:
        """The text ends here; ``token`` has ended it."""
        self.is_reached, self._reason, self._token = True, reason, token

    @property
    def reason(self) -> FinishReason:
        """Why it is reached; before that, why nobody goes on to it."""
        return self._cancel.reason if self._reason is None else self._reason

    def check(self, num_tokens: int, length: int) -> bool:
        """Whether a text of ``num_tokens``, ``length`` with its prompt, may not go on."""
        if self.is_reached:
            return True
        if num_tokens == self._max_tokens:
            self.reach("length")
        elif self._cancel.cancelled:
            self.reach(self._cancel.reason)
        elif length > self._context_length:
            self.reach("context")
            logger.warning(
                "the context of %d tokens is full; the text ends here", self._context_length
            )
        return self.is_reached

    def matched_stop(self, string: str | None) -> str | int | None:
        """The stop ``string`` that was reached, if any, or else the token that has ended it."""
        return (string or self._token) if self.reason == "stop" else None
