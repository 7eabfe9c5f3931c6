"""The constraint of one text: llguidance's matcher behind the protocol of the sampler.

It knows how far the text has come. ``compiler`` has compiled its form.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from edgellama.constraints.guidance import plain_message
from edgellama.constraints.guidance_vocabulary import GuidanceVocabulary, Openings
from edgellama.sampling.filters import Mask

logger = logging.getLogger(__name__)
MAX_FORCED_BYTES = 1 << 15
"""That are made tokens of at once: more would take seconds."""

Answer = TypeVar("Answer")


class TokenConstraint:
    """How far one text has come in its grammar; for one thread at a time."""

    def __init__(
        self,
        matcher: Any,
        vocabulary: GuidanceVocabulary,
        *,
        opens_text: bool,
        renewed: Callable[[], Any] | None = None,
        first_mask: list[Mask] | None = None,
    ) -> None:
        """``matcher`` is this text's own; ``opens_text``: its first token begins a text.

        What matchers find out they share, up to a limit. A text that meets it gets another
        matcher from ``renewed``, which shares nothing yet. ``first_mask`` is where all texts of a
        form leave the mask of an empty text, the first of them.
        """
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._opens_text = opens_text
        self._renewed = renewed
        self._first_mask: list[Mask] = [] if first_mask is None else first_mask
        self._mask: Mask | None = None
        self._consumed: list[list[int]] = []

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_finished(self) -> bool:
        """Whether the text may end here and nothing may follow."""
        return bool(self._matcher.is_stopped()) and self.is_complete

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        if token >= self._vocabulary.size:
            return False
        if token in self._vocabulary.ends:
            return self.is_complete
        if self._mask is not None:
            return bool(self._mask[token])
        return self._allows_inside(self._as_inside(token))

    def mask(self) -> Mask:
        """Bool by token: what may come next; nothing at all where the grammar has no way on."""
        if self._mask is None:
            bits = np.frombuffer(
                self._answer_to(lambda matcher: matcher.compute_bitmask()), np.uint8
            )
            mask = np.unpackbits(bits, count=self._vocabulary.size, bitorder="little")
            self._mask = mask.view(np.bool_)
            if self._openings is not None:
                self._mask = self._opening_mask(self._mask, self._openings)
            if self._matcher.is_error():
                logger.warning("the constraint cannot go on: %s", self.error)
                self._mask = np.zeros_like(self._mask)
        return self._mask

    def forced(self) -> list[int]:
        """Tokens that must come next in any case; none if there is a choice."""
        text: bytes = self._answer_to(lambda matcher: matcher.compute_ff_bytes())
        if not 0 < len(text) <= MAX_FORCED_BYTES:
            return []
        tokens: list[int] = self._answer_to(lambda matcher: matcher.compute_ff_tokens())
        # A tokenizer that normalizes text may have written something else.
        data = self._vocabulary.bytes_of(tokens)
        if not data or not text.startswith(data):
            return []
        if self._openings is not None:
            first = self._vocabulary.bytes_of(tokens[:1])
            tokens[0] = self._openings.by_bytes.get(first, tokens[0])
        return tokens

    def advance(self, token: int) -> None:
        """Note an allowed token as the text's next one."""
        tokens = self._as_inside(token)
        self._matcher.consume_tokens(tokens)
        self._consumed.append(tokens)
        self._mask = None

    def rollback(self, num_tokens: int) -> None:
        """Take the last tokens back."""
        first = len(self._consumed) - num_tokens
        self._matcher.rollback(sum(map(len, self._consumed[first:])))
        del self._consumed[first:]
        self._mask = None

    @property
    def error(self) -> str:
        """Why the grammar has no way on, "" where it has or simply ends."""
        return plain_message(self._matcher.get_error())

    def _answer_to(self, ask: Callable[[Any], Answer]) -> Answer:
        """What the matcher answers; another one in its place where it cannot.

        Ctrl-C while it asks the tokenizer is an error to it, but not to us.
        """
        answer = ask(self._matcher)
        if not self._matcher.is_error():
            return answer
        if KeyboardInterrupt.__name__ in self._matcher.get_error():
            raise KeyboardInterrupt
        if self._renewed is None:
            return answer
        self._matcher, self._renewed = self._renewed(), None
        self._matcher.consume_tokens([token for tokens in self._consumed for token in tokens])
        return ask(self._matcher)

    @property
    def _openings(self) -> Openings | None:
        """What tokens give other bytes just now; None inside a text."""
        is_opening = self._opens_text and not self._consumed
        return self._vocabulary.openings if is_opening else None

    def _opening_mask(self, inside: Mask, openings: Openings) -> Mask:
        """The mask of an empty text, which is found once for all texts of a form."""
        if self._first_mask:
            return self._first_mask[0]
        mask = openings.mask(inside, self._allows_inside)
        if not self._matcher.is_error():  # which would be every other text's, too
            self._first_mask.append(mask)
        return mask

    def _as_inside(self, token: int) -> list[int]:
        """Tokens that give the same bytes inside a text as this one here; none for no bytes."""
        openings = self._openings
        return [token] if openings is None else openings.inside.get(token, [token])

    def _allows_inside(self, tokens: list[int]) -> bool:
        return bool(tokens) and self._matcher.validate_tokens(tokens) == len(tokens)
