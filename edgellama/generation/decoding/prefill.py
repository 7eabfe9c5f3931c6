"""The prompt of a generation: its next piece, its progress, and the callback that hears of it.

It notes the prompt's log-probabilities, if they are wanted. ``decoding`` continues after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgellama.quant.errors import GenerationCancelled

if TYPE_CHECKING:
    from edgellama.engine.pages.text_cache import TextCache
    from edgellama.engine.scheduling.work import Kept
    from edgellama.engine.steps.segments import Wanted
    from edgellama.generation.decoding.decoding_clock import DecodingClock
    from edgellama.generation.decoding.logprobs import PromptLogprobs
    from edgellama.generation.results import TokenLogprob
    from edgellama.generation.text_request import Request
    from edgellama.quant.progress import Progress
    from edgellama.sampling.choice_order import ChoiceOrder
    from edgellama.sampling.share_order import ShareOrder
    from edgellama.text.tokenizer import Tokenizer


class NextTokens(NamedTuple):
    """``tokens`` for the end of the cache, and whose logits are wanted: those at their end.

    ``kept``: what is kept of the logits of each step; all of them by default.
    """

    tokens: Sequence[int]
    wanted: Wanted
    kept: Kept | None = None


class Prefill:
    """Knows what the cache held of the prompt before, and what it still lacks."""

    def __init__(
        self, tokenizer: Tokenizer, cache: TextCache, request: Request, clock: DecodingClock
    ) -> None:
        self._cache = cache
        self._request = request
        self._clock = clock
        self._logprobs: PromptLogprobs | None = None
        if request.prompt_logprobs is not None:
            from edgellama.generation.decoding.logprobs import prompt_logprobs

            self._logprobs = prompt_logprobs(tokenizer, request)
        self._num_shared: int | None = None
        self._is_noted = False

    @property
    def is_begun(self) -> bool:
        """Whether it is known what the cache holds already."""
        return self._num_shared is not None

    @property
    def is_left(self) -> bool:
        """Whether some of the prompt must still be computed."""
        return self._cache.length < len(self._request.prompt)

    @property
    def progress(self) -> tuple[int, int]:
        """Tokens that were computed so far, and that must be; (0, 0) before."""
        if self._num_shared is None:
            return 0, 0
        num_wanted = len(self._request.prompt) - self._num_shared
        return min(max(0, self._cache.length - self._num_shared), num_wanted), num_wanted

    @property
    def listener(self) -> Progress | None:
        """The callback for the progress of the next step; none after the prompt."""
        return None if self._is_noted else self._request.on_prefill

    @property
    def logprobs(self) -> tuple[TokenLogprob | None, ...] | None:
        """The log-probabilities of the prompt's tokens, if they were asked for."""
        return None if self._logprobs is None else self._logprobs.found

    def check_logprobs(self, end: str) -> None:
        """GenerationCancelled where ``end`` came before all that were asked for are known."""
        if self._logprobs is not None and not self._logprobs.is_complete:
            count = len(self._request.prompt)
            raise GenerationCancelled(
                f"{end} came before the log-probabilities of all {count} tokens of the prompt were "
                "known"
            )

    def begin(self, history: Sequence[int]) -> None:
        """Find out what the cache holds of ``history``, which begins with the prompt."""
        wanted = history if self._logprobs is None else history[: self._logprobs.first]
        # The last token is computed in any case, for its logits.
        self._num_shared = self._cache.reuse(wanted)

    def next_tokens(self, history: Sequence[int]) -> NextTokens:
        """What the cache lacks of ``history``; in pieces where log-probabilities are wanted."""
        if self._logprobs is None:
            return NextTokens(history[self._cache.length :], "last")
        tokens, is_wanted = self._logprobs.next_tokens(self._cache.length)
        kept = self._logprobs.keep if is_wanted else None
        return NextTokens(tokens, "all" if is_wanted else "none", kept)

    def order(self, choice: ChoiceOrder, vocab_size: int) -> ChoiceOrder | ShareOrder:
        """How to return the rows of ``next_tokens`` if a token behind them is chosen, too."""
        if self._logprobs is None or not self.is_left:
            return choice
        return self._logprobs.order(choice, vocab_size)

    def note(self) -> None:
        """Tell the clock, once, that the prompt is computed."""
        if self._is_noted:
            return
        self._is_noted = True
        num_computed = min(self._cache.length, len(self._request.prompt))
        self._clock.note_prefill(num_computed - (self._num_shared or 0))
