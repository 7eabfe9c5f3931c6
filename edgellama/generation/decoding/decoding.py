"""One generation: prefills what the cache lacks, then chooses token after token.

It knows which tokens are computed next, what their logits are for, and the reasons to stop.
Sessions and conversations decide who may start one, and use the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, has_adapters
from edgellama.generation.decoding.constraining import parsed_answer
from edgellama.generation.decoding.decoding_clock import DecodingClock
from edgellama.generation.decoding.growing_text import GrowingText
from edgellama.generation.decoding.prefill import NextTokens, Prefill
from edgellama.generation.decoding.text_end import TextEnd
from edgellama.generation.decoding.token_choice import TokenChoice
from edgellama.generation.results import Chunk, Generation
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.engine.pages.text_cache import TextCache
    from edgellama.engine.scheduling.cancellation import CancelReason, CancelToken
    from edgellama.engine.text_engine import TextEngine
    from edgellama.generation.decoding.thinking_limit import ThinkingLimit
    from edgellama.generation.speculation.drafter import Drafter
    from edgellama.generation.text_request import Request
    from edgellama.quant.progress import Progress
    from edgellama.sampling.filters import Logits
    from edgellama.text.tokenizer import Tokenizer

_ENDS: Mapping[CancelReason, str] = MappingProxyType(
    {"timeout": "the time limit (timeout)", "cancelled": "a cancellation"}
)
"""What has ended a text early, by the reason of its token."""


class Decoding:
    """The state of one generation: it says which tokens to compute next, and takes their logits.

    Its owner computes them, alone (``steps``) or together with other generations. ``history`` is
    prompt and text so far. The cache holds a beginning of it, and the rest is computed next,
    wherever it came from. A draft may follow; its tokens that the sampler does not choose are
    removed again.
    """

    def __init__(
        self,
        engine: TextEngine,
        tokenizer: Tokenizer,
        cache: TextCache,
        request: Request,
        cancel: CancelToken,
        drafter: Drafter | None = None,
    ) -> None:
        """``drafter``: what guesses ahead; None: nobody."""
        self._engine = engine
        self.cache = cache
        self.cancel = cancel
        self._request = request
        self._adapters = (
            engine.adapters.adapter_set(request.adapters)
            if has_adapters(request.adapters)
            else NO_ADAPTERS
        )
        self._choice = TokenChoice(engine, tokenizer, request)
        self._end = TextEnd(request.max_tokens, cache.context_length, cancel)
        self._text = GrowingText(
            tokenizer, request, self._choice, self._end, room=cache.context_length
        )
        self._history = self._text.history
        self._limit: ThinkingLimit | None = None
        if request.reasoning is not None:
            from edgellama.generation.decoding.thinking_limit import thinking_limit

            self._limit = thinking_limit(tokenizer, request.reasoning)
        # The low-rank products of adapters add up otherwise for several tokens.
        self._drafter = None if self._adapters else drafter
        self._draft: list[int] = []
        self._clock = DecodingClock()
        self._prefill = Prefill(tokenizer, cache, request, self._clock)

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """How many of the prompt's tokens are computed, and of how many; (0, 0) before."""
        return self._prefill.progress

    @property
    def on_progress(self) -> Progress | None:
        """The callback for the progress of the next step, if that is part of the prompt."""
        return self._prefill.listener

    def steps(self) -> Iterator[Chunk]:
        """One chunk a token, and one more if text was still held back at the end."""
        try:
            while (step := self.next_tokens()) is not None:
                yield from self.take(self._computed(step))
        except EdgellamaError:
            # A caller that cancels may also close what the next step would need.
            if not self.cancel.cancelled:
                raise
            self.stop_early()
        yield from self.rest()

    def next_tokens(self) -> NextTokens | None:
        """The tokens that come next, for the end of ``cache``; None at the end.

        At first the prompt, of which the cache may hold a part already.
        """
        step = self._next_tokens()
        order = None if step is None else self._choice.order(self._history, self._draft)
        if order is not None:
            vocab_size = self._engine.config.vocab_size
            self._engine.order_choice(self.cache, self._prefill.order(order, vocab_size))
        return step

    def _next_tokens(self) -> NextTokens | None:
        history, cache = self._history, self.cache
        if not self._prefill.is_begun:
            self._clock.resume()
            cache.adapters = self._adapters
            self._text.append_opening()
            self._prefill.begin(history)
        if self._prefill.is_left:
            return self._prefill.next_tokens(history)
        self._clock.resume()
        if self._text.is_over():
            return None
        tokens = history[cache.length :]
        if len(tokens) > 1:
            # "next" gives certain tokens the bits that they have one by one, as it does for
            # guesses.
            return NextTokens(tokens, "next" if len(tokens) <= MAX_SHORT_TOKENS else "last")
        if self._drafter is None:
            return NextTokens(tokens, "last")
        self._draft = list(self._drafter.draft(history, self._room_for_draft()))
        return NextTokens(tokens + self._draft, "each" if self._draft else "last")

    def take(self, logits: Logits) -> Iterator[Chunk]:
        """Choose tokens by the logits that were wanted (n, vocab_size), each when it is asked for.

        Row 0 is of the history's last token, the others are of the draft: they count as long as
        the draft says what was appended. A token that ends the text gives no chunk.
        """
        if self._has_no_choice():
            return
        history, start = self._history, len(self._history)
        draft, row, is_again = self._draft, 0, False
        yield from self._text.take_opening()
        logits = logits[len(logits) - 1 - len(draft) :]
        try:
            while True:
                token = self._choose(logits[row])
                if token is None:
                    break
                yield from self._text.append(token)
                if self._choice.is_constrained:
                    yield from self._text.append_forced()
                next_row = len(history) - start
                if next_row == row and not self._end.is_reached:
                    if not self._choice.is_ordered:
                        continue  # taken back: another one, by the same logits
                    is_again = True  # by those of one more step
                    break
                is_drafted = row < next_row <= len(draft)
                if not is_drafted or draft[row:next_row] != history[start + row :]:
                    break
                self._clock.resume()
                if self._text.is_over():
                    break
                row = next_row
        finally:
            if draft:
                self._draft = []
                self._clock.note_draft(len(draft), row)
            # Where the text went back, the logits of its last token are wanted again.
            is_there = len(history) >= start + row and not is_again
            length = start + row if is_there else len(history) - 1
            if length < self.cache.length:
                self.cache.truncate(length)

    def _computed(self, step: NextTokens) -> Logits:
        """What a step gives, computed now; with other callers' works, where they wait."""
        engine, cache = self._engine, self.cache
        how: Any = {"logits": step.wanted, "cancelled": self.cancel, "progress": self.on_progress}
        if step.kept is None:
            return engine.forward(step.tokens, cache, **how)
        work = engine.work(step.tokens, cache, kept=step.kept, **how)
        engine.scheduler.run(work)
        return work.result(engine.config.vocab_size)

    def stop_early(self) -> None:
        """End as cancelled, for the reason that its token has.

        GenerationCancelled if log-probabilities of the prompt are missing, which nobody would miss
        in a result.
        """
        self._prefill.check_logprobs(_ENDS[self.cancel.reason])
        self._prefill.note()
        self._end.reach(self.cancel.reason)

    def rest(self) -> Sequence[Chunk]:
        """What was still held back at the end, at which nobody waits for this text any more."""
        self._engine.scheduler.expect_no_more(self.cache)
        return self._text.finish()

    def result(self) -> Generation:
        """The generation so far."""
        prompt_tokens = len(self._request.prompt)
        words, text = self._text.words, self._text.words.text
        calls = words.tool_calls if self._end.is_reached else ()
        reason, stop = self._end.reason, words.matched_stop
        # A stop string has cut off what the text still had to say.
        is_whole = reason == "stop" and stop is None and self._choice.is_complete and not calls
        parsed, parse_error = parsed_answer(self._request.answer if is_whole else None, text)
        return Generation(
            text=text,
            tokens=tuple(self._history[prompt_tokens:]),
            prompt_tokens=prompt_tokens,
            finish_reason="tool_calls" if reason == "stop" and calls else reason,
            statistics=self._clock.statistics(prompt_tokens, self.cache.num_bytes),
            matched_stop=self._end.matched_stop(stop),
            logprobs=self._choice.logprobs,
            prompt_logprobs=self._prefill.logprobs,
            dropped_messages=self._request.dropped_messages,
            parsed=parsed,
            parse_error=parse_error,
            tool_calls=calls,
            reasoning=words.reasoning,
            reasoning_places=tuple(words.reasoning_places),
        )

    def _room_for_draft(self) -> int:
        """How long a draft behind the history may be; all of it may be refused."""
        room = min(MAX_SHORT_TOKENS - 1, self.cache.passing_room(len(self._history)))
        if self._request.max_tokens is not None:
            room = min(room, self._request.max_tokens - self._text.num_tokens - 1)
        return max(0, room)

    def _has_no_choice(self) -> bool:
        """Whether no token comes by these logits: the prompt goes on, or the text ends with it."""
        if self._prefill.is_left:
            return True
        if not self._end.is_reached and self._request.max_tokens != 0:
            return False
        self._prefill.note()
        if not self._end.is_reached:  # as what had to follow the prompt may do
            self._end.reach("length")
        return True

    def _choose(self, logits: Logits) -> int | None:
        """The next token; None if it ends the text."""
        self._prefill.note()
        closing = None if self._limit is None else self._limit.token(self._text.words)
        token = self._choice.choose(logits, self._history, closing)
        self._clock.note_token()
        if token is None:
            self._end.reach("constraint")
        elif token in self._choice.end_tokens:
            self._end.reach("stop", token)
            return None
        return token
