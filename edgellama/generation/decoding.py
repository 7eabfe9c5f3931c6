"""One generation: prefill what the cache lacks, then sample token after token.

It knows tokens, their text, and the reasons to stop. Who may start one, and what the text
is for, is left to session and conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from time import perf_counter
from typing import TYPE_CHECKING

from edgellama.generation.results import Chunk, FinishReason, Generation, Statistics
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.sampling.filters import Logits
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import make_sampler
from edgellama.text.sequence_breakers import SequenceBreakers
from edgellama.text.tokenizer import StopStrings, StreamingDetokenizer

if TYPE_CHECKING:
    from edgellama.engine.cancellation import CancelToken
    from edgellama.engine.engine import Engine
    from edgellama.engine.kv_cache import KVCache
    from edgellama.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to generate from; InvalidOptionError for impossible values.

    ``max_tokens`` None means until an end token or a full context. ``continuation``: the text
    carries on the prompt's, so a leading space is kept. ``dropped_messages`` is handed on to the
    result.
    """

    prompt: Sequence[int]
    sampling: SamplingOptions
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    continuation: bool = True
    dropped_messages: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InvalidOptionError("the prompt is empty; allowed: at least one token")
        if not _is_limit(self.max_tokens):
            raise InvalidOptionError(
                f"max_tokens is {self.max_tokens!r}; allowed: None or a whole number from 1"
            )


class Decoding:
    """The running state of one generation; ``steps`` makes it, ``result`` sums it up.

    ``held`` lists the tokens in ``cache`` and is kept in step with it.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        cache: KVCache,
        held: list[int],
        request: Request,
        cancel: CancelToken,
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._held = held
        self._request = request
        self._cancel = cancel
        self._end_tokens = tokenizer.special.end_of_generation
        self._sampler = make_sampler(
            request.sampling,
            engine.kernels,
            end_tokens=self._end_tokens,
            breaks=SequenceBreakers(tokenizer, request.sampling.dry_breakers),
        )
        self._stops = StopStrings(request.stop)
        self._detokenizer = StreamingDetokenizer(tokenizer, continuation=request.continuation)
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self._finish_reason: FinishReason = "cancelled"
        self._context_full = False
        self._prefilled_tokens = 0
        self._decoded_tokens = 0
        self._prefill_s = self._decode_s = self._first_token_s = 0.0

    def steps(self) -> Iterator[Chunk]:
        """One chunk a token, and one more if text was still held back at the end."""
        try:
            logits = self._prefill()
            yield from self._decode(logits)
        except EdgellamaError:
            # Who cancels may also close what the next step would need.
            if not self._cancel.cancelled:
                raise
            self._finish_reason = "cancelled"
        finally:
            del self._held[self._cache.length :]
        rest, stopped = self._stops.feed(self._detokenizer.finish())
        rest += self._stops.flush()
        if stopped:
            self._finish_reason = "stop"
        if rest:
            self._texts.append(rest)
            yield Chunk(rest, None)

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

    def _prefill(self) -> Logits:
        """Logits after the prompt's last token; only what the cache lacks is computed."""
        started = perf_counter()
        prompt, held, cache = self._request.prompt, self._held, self._cache
        # The last token is computed in any case, for its logits.
        shared = min(shared_length(held, prompt), len(prompt) - 1, cache.length)
        cache.truncate(shared)
        held[shared:] = prompt[shared:]
        try:
            logits: Logits = self._engine.forward(prompt[shared:], cache, cancelled=self._cancel)[0]
        finally:
            self._prefilled_tokens = cache.length - shared
            self._prefill_s = perf_counter() - started
        return logits

    def _decode(self, logits: Logits) -> Iterator[Chunk]:
        # Names are bound once because this loop runs hundreds of times a second.
        sampler, held, tokens, texts = self._sampler, self._held, self._tokens, self._texts
        add_text, cut_text = self._detokenizer.add, self._stops.feed
        end_tokens, cancel = self._end_tokens, self._cancel
        cache, forward = self._cache, self._engine.forward
        max_tokens, context_length = self._request.max_tokens, cache.context_length
        resumed = perf_counter()
        while True:
            token = sampler(logits, held)
            # Sampling the first token belongs to its latency, not to the decoding speed.
            if not tokens:
                self._first_token_s = self._prefill_s + perf_counter() - resumed
            else:
                self._decode_s += perf_counter() - resumed
                self._decoded_tokens += 1
            if token in end_tokens:
                self._finish_reason = "stop"
                break
            tokens.append(token)
            text, stopped = cut_text(add_text(token))
            texts.append(text)
            yield Chunk(text, token)
            resumed = perf_counter()
            if stopped:
                self._finish_reason = "stop"
                break
            if len(tokens) == max_tokens:
                self._finish_reason = "length"
                break
            if cancel.cancelled:
                break
            if len(held) >= context_length:
                self._stop_for_full_context(context_length)
                break
            held.append(token)
            logits = forward((token,), cache, cancelled=cancel)[0]

    def _stop_for_full_context(self, context_length: int) -> None:
        self._finish_reason = "length"
        self._context_full = True
        logger.warning("the context of %d tokens is full; the text ends here", context_length)


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, Integral) and int(value) >= 1)
