"""Log-probabilities of tokens in the model's own distribution, before sampling changes it.

Those of a text are noted when its tokens are chosen, those of a prompt when its steps are computed.
Texts that ask for none pay nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellama.generation.results import Chunk, TokenLogprob
from edgellama.sampling.logprobs import TokenShare, log_total

if TYPE_CHECKING:
    from edgellama.generation.text_request import Request
    from edgellama.sampling.choice_order import ChoiceOrder
    from edgellama.sampling.filters import Logits
    from edgellama.sampling.share_order import ShareOrder
    from edgellama.text.tokenizer import Tokenizer

Rows = npt.NDArray[np.float32]


def share(logits: Logits, tokens: Sequence[int], others: Sequence[int]) -> float:
    """How probable it is that the next token is one of ``tokens`` rather than of ``others``."""
    own, other = (log_total(logits[list(each)]) for each in (tokens, others))
    return 1.0 / (1.0 + math.exp(min(max(other - own, -700.0), 700.0)))


def token_logprob(
    tokenizer: Tokenizer, logits: Logits, token: int, num_alternatives: int
) -> TokenLogprob:
    """The log-probability of a token by logits (vocab_size,), and the likeliest tokens."""
    return described(tokenizer, TokenShare.by(logits, token, num_alternatives))


def described(tokenizer: Tokenizer, found: TokenShare) -> TokenLogprob:
    """Numbers with the texts of their tokens."""

    def of(token: int, logprob: float) -> TokenLogprob:
        text = tokenizer.decode([token], skip_special=False, continuation=True)
        in_bytes = tokenizer.token_bytes(token, skip_special=False)
        return TokenLogprob(token, text, logprob, token_bytes=in_bytes)

    alternatives = tuple(of(*each) for each in found.likeliest)
    return replace(of(found.token, found.logprob), alternatives=alternatives)


def prompt_logprobs(tokenizer: Tokenizer, request: Request) -> PromptLogprobs | None:
    """What notes those of a request's prompt, if it wants them."""
    count = request.prompt_logprobs
    if count is None:
        return None
    return PromptLogprobs(tokenizer, request.prompt, count, request.first_logprob)


class TextLogprobs:
    """The log-probabilities of a text, which may be taken back."""

    def __init__(self, tokenizer: Tokenizer, num_alternatives: int) -> None:
        self._tokenizer = tokenizer
        self._num_alternatives = num_alternatives
        self._num_shown = 0
        self._found: list[TokenLogprob] = []

    @property
    def found(self) -> tuple[TokenLogprob, ...]:
        """One for each token of the text so far."""
        return tuple(self._found)

    def note(self, logits: Logits, token: int) -> None:
        """The text's next token was chosen by ``logits`` (vocab_size,)."""
        self.note_found(TokenShare.by(logits, token, self._num_alternatives))

    def note_found(self, found: TokenShare) -> None:
        """The same where it was found elsewhere."""
        self._found.append(described(self._tokenizer, found))

    def drop(self, num_tokens: int) -> None:
        """The last tokens do not belong to the text any more."""
        del self._found[len(self._found) - num_tokens :]

    def with_logprobs(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Chunks of the text's next tokens, with theirs."""
        made = []
        for chunk in chunks:
            if chunk.token is not None:
                chunk = replace(chunk, logprobs=self._found[self._num_shown])
                self._num_shown += 1
            made.append(chunk)
        return made


class PromptLogprobs:
    """Log-probabilities of a prompt's tokens from place ``first`` on; its first token has none."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], num_alternatives: int, first: int
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._num_alternatives = num_alternatives
        self._first_wanted = first
        self.first = max(1, first)
        self._place = 0
        self._order: ShareOrder | None = None
        self._found: list[TokenLogprob] = []

    @property
    def found(self) -> tuple[TokenLogprob | None, ...]:
        """One for each token from place ``first`` on, or from 0 on with None for that."""
        return tuple(self._found) if self._first_wanted else (None, *self._found)

    @property
    def is_complete(self) -> bool:
        """Whether all are known."""
        return len(self._found) >= len(self._prompt) - self.first

    def next_tokens(self, num_computed: int) -> tuple[Sequence[int], bool]:
        """What of the prompt comes next, and whether its logits are wanted."""
        if num_computed < self.first - 1:
            return self._prompt[num_computed : self.first - 1], False
        self._place = num_computed
        return self._prompt[num_computed:], True

    def order(self, choice: ChoiceOrder | None, vocab_size: int) -> ShareOrder:
        """How to tell them where the logits of ``next_tokens`` are; ``keep`` takes that then.

        ``choice``: of the token behind the prompt.
        """
        from edgellama.sampling.share_order import ShareOrder

        coming = np.array(self._prompt[self._place + 1 :], np.int32)
        self._order = ShareOrder.of(self._place, coming, self._num_alternatives, choice, vocab_size)
        return self._order

    def keep(self, rows: Rows) -> Rows:
        """Note what a step has found for the next tokens of the prompt; only its last row stays."""
        for row in rows:
            self._place += 1
            if self.first <= self._place < len(self._prompt):
                self._found.append(self._described(row, self._prompt[self._place]))
        return rows[-1:].copy()

    def _described(self, row: Rows, token: int) -> TokenLogprob:
        """The log-probability of a token by a row of logits, or by the numbers in their place."""
        if self._order is None:
            return token_logprob(self._tokenizer, row, token, self._num_alternatives)
        return described(self._tokenizer, self._order.share_in(row))
