"""One generation: prefill what the cache lacks, then sample token after token.

It knows tokens, their text, and the reasons to stop. Who may start one, and what the text
is for, is left to session and conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from edgellama.engine.adapter_set import NO_ADAPTERS
from edgellama.generation.results import Chunk, FinishReason, Generation, Statistics
from edgellama.generation.text_options import Request
from edgellama.quant.errors import EdgellamaError
from edgellama.sampling.filters import Logits
from edgellama.sampling.sampler import make_sampler
from edgellama.text.sequence_breakers import SequenceBreakers
from edgellama.text.tokenizer import StopStrings, StreamingDetokenizer

if TYPE_CHECKING:
    from edgellama.engine.cancellation import CancelToken
    from edgellama.engine.engine import Engine
    from edgellama.engine.kv_cache import KVCache
    from edgellama.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Decoding:
    """The state of one generation: it says which tokens come next, and takes their logits.

    Who computes them, alone or together with other generations, is not its business; ``steps``
    does it alone.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        cache: KVCache,
        request: Request,
        cancel: CancelToken,
    ) -> None:
        self._engine = engine
        self.cache = cache
        self.cancel = cancel
        self._request = request
        self._adapters = (
            engine.adapters.adapter_set(request.adapters) if request.adapters else NO_ADAPTERS
        )
        self._end_tokens = tokenizer.special.end_of_generation
        self._sampler = make_sampler(
            request.sampling,
            engine.kernels,
            end_tokens=self._end_tokens,
            breaks=SequenceBreakers(tokenizer, request.sampling.dry_breakers),
        )
        self._stops = StopStrings(request.stop)
        self._detokenizer = StreamingDetokenizer(tokenizer, continuation=request.continuation)
        self._history = list(request.prompt)
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self._finish_reason: FinishReason = "cancelled"
        self._is_over = self._context_full = False
        self._num_shared: int | None = None
        self._prefilled_tokens = 0
        self._decoded_tokens = 0
        self._prefill_s = self._decode_s = self._first_token_s = 0.0
        self._resumed = 0.0

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that were computed so far, and that must be; (0, 0) before."""
        if self._num_shared is None:
            return 0, 0
        num_wanted = len(self._request.prompt) - self._num_shared
        return min(max(0, self.cache.length - self._num_shared), num_wanted), num_wanted

    def steps(self) -> Iterator[Chunk]:
        """One chunk a token, and one more if text was still held back at the end."""
        forward, cache = self._engine.forward, self.cache
        try:
            while (tokens := self.next_tokens()) is not None:
                chunk = self.take(forward(tokens, cache, cancelled=self.cancel)[0])
                if chunk is not None:
                    yield chunk
        except EdgellamaError:
            # Who cancels may also close what the next step would need.
            if not self.cancel.cancelled:
                raise
            self.stop_early()
        if (rest := self.rest()) is not None:
            yield rest

    def next_tokens(self) -> Sequence[int] | None:
        """The tokens whose logits come next, for the end of ``cache``; None at the end.

        At first the prompt, of which the cache may hold a part already.
        """
        self._resumed = perf_counter()
        if self._num_shared is None:
            self.cache.adapters = self._adapters
            # The last token is computed in any case, for its logits.
            self._num_shared = self.cache.reuse(self._request.prompt)
            return self._request.prompt[self._num_shared :]
        self._check_end()
        if self._is_over:
            return None
        self._history.append(self._tokens[-1])
        return self._history[-1:]

    def take(self, logits: Logits) -> Chunk | None:
        """Choose a token by the logits (vocab_size,); its text, or None if it ends the text."""
        is_first = not self._tokens
        if is_first:
            self._note_prefill()
        token = self._sampler(logits, self._history)
        seconds = perf_counter() - self._resumed
        # Sampling the first token belongs to its latency, not to the decoding speed.
        if is_first:
            self._first_token_s = seconds
        else:
            self._decode_s += seconds
            self._decoded_tokens += 1
        if token in self._end_tokens:
            self._end("stop")
            return None
        self._tokens.append(token)
        text, stopped = self._stops.feed(self._detokenizer.add(token))
        self._texts.append(text)
        if stopped:
            self._end("stop")
        return Chunk(text, token)

    def stop_early(self) -> None:
        """End as cancelled."""
        if not self._tokens:
            self._note_prefill()
        self._end("cancelled")

    def rest(self) -> Chunk | None:
        """Text that was still held back at the end."""
        rest, stopped = self._stops.feed(self._detokenizer.finish())
        rest += self._stops.flush()
        if stopped:
            self._finish_reason = "stop"
        if not rest:
            return None
        self._texts.append(rest)
        return Chunk(rest, None)

    def result(self) -> Generation:
        """The generation so far."""
        prompt_tokens = len(self._request.prompt)
        return Generation(
            text="".join(self._texts),
            tokens=tuple(self._tokens),
            prompt_tokens=prompt_tokens,
            finish_reason=self._finish_reason,
            context_full=self._context_full,
            statistics=Statistics(
                prompt_tokens=prompt_tokens,
                prefilled_tokens=self._prefilled_tokens,
                decoded_tokens=self._decoded_tokens,
                prefill_s=self._prefill_s,
                decode_s=self._decode_s,
                time_to_first_token_s=self._first_token_s,
            ),
            dropped_messages=self._request.dropped_messages,
        )

    def _note_prefill(self) -> None:
        self._prefill_s = perf_counter() - self._resumed
        self._prefilled_tokens = max(0, self.cache.length - (self._num_shared or 0))

    def _check_end(self) -> None:
        """Find out whether the last token was the last one."""
        if self._is_over:
            return
        if len(self._tokens) == self._request.max_tokens:
            self._end("length")
        elif self.cancel.cancelled:
            self._end("cancelled")
        elif len(self._history) >= self.cache.context_length:
            self._context_full = True
            self._end("length")
            logger.warning(
                "the context of %d tokens is full; the text ends here", self.cache.context_length
            )

    def _end(self, reason: FinishReason) -> None:
        self._finish_reason = reason
        self._is_over = True
