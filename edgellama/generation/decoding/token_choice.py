"""Chooses the next token of one text among all that nothing forbids.

It joins sampler, constraint, tokens refused by banned strings, and log-probabilities, and keeps
them in step when tokens come and are taken back. ``decoding`` decides what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellama.generation.arguments import check_stop_tokens, token_bias
from edgellama.generation.decoding.constraining import constraint_of
from edgellama.generation.decoding.held_tokens import RefusedTokens
from edgellama.sampling.constraint import allowed_token
from edgellama.sampling.sampler import Sampler
from edgellama.text.sequence_breakers import SequenceBreakers

if TYPE_CHECKING:
    from edgellama.engine.text_engine import TextEngine
    from edgellama.generation.decoding.choice_orders import ChoiceOrders
    from edgellama.generation.decoding.logprobs import TextLogprobs
    from edgellama.generation.results import Chunk, TokenLogprob
    from edgellama.generation.text_request import Request
    from edgellama.sampling.choice_order import ChoiceOrder, Rule
    from edgellama.sampling.filters import Logits
    from edgellama.text.tokenizer import Tokenizer


class TokenChoice:
    """Chooses the tokens of one text; ``end_tokens`` are those that end it."""

    def __init__(self, engine: TextEngine, tokenizer: Tokenizer, request: Request) -> None:
        own_ends = tokenizer.special.end_of_generation | request.end_tokens
        check_stop_tokens(request.stop_tokens, tokenizer.vocab_size)
        self.end_tokens = own_ends | request.stop_tokens
        breaks = SequenceBreakers(tokenizer, request.sampling.dry_breakers)
        bias = token_bias(tokenizer, dict(request.sampling.logit_bias or {}))
        self._sampler = Sampler(
            request.sampling,
            engine.kernels,
            end_tokens=own_ends,
            stop_tokens=request.stop_tokens,
            breaks=breaks,
            bias=bias,
            prompt_length=len(request.prompt),
            own_tokens=request.own_tokens,
            processors=request.processors,
            choose=request.sampler,
        )
        self._constraint = constraint_of(tokenizer, request)
        self._orders: ChoiceOrders | None = None
        if engine.orders_choices:
            from edgellama.generation.decoding.choice_orders import ChoiceOrders, is_orderable

            if is_orderable(request):
                self._orders = ChoiceOrders(request, self._sampler, own_ends, bias, breaks)
        self._vocab_size = engine.config.vocab_size
        self._refused = RefusedTokens()
        self._logprobs: TextLogprobs | None = None
        if request.logprobs is not None:
            from edgellama.generation.decoding.logprobs import TextLogprobs

            self._logprobs = TextLogprobs(tokenizer, request.logprobs)
        self._wants_logits = request.logprobs is not None or request.prompt_logprobs is not None

    @property
    def is_ordered(self) -> bool:
        """Whether tokens are chosen far from here, so that another choice takes another step."""
        return self._orders is not None

    @property
    def is_constrained(self) -> bool:
        """Whether the text must have a form."""
        return self._constraint is not None

    @property
    def is_complete(self) -> bool:
        """Whether the text has all of the form that was asked for."""
        return self._constraint is None or self._constraint.is_complete

    @property
    def is_finished(self) -> bool:
        """Whether the text has all of a form that was asked for, and nothing may follow."""
        return self._constraint is not None and self._constraint.is_finished

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """One for each token of the text, if they were asked for."""
        return None if self._logprobs is None else self._logprobs.found

    def choose(
        self, logits: Logits, history: Sequence[int], given: int | None = None
    ) -> int | None:
        """The next token from logits (vocab_size,); None if no token can follow in the text's form.

        ``given``: the token that must come next, unless it is refused.
        An end token is not part of the text; of other tokens the log-probability is noted. A token
        that was ordered is chosen already, and is given in place of logits.
        """
        if self._orders is not None:
            return self._ordered(self._orders, logits, len(history))
        allowed = self._refused.allowed(len(history), len(logits))
        token: int | None
        if given is not None and not self.is_refused(len(history), given):
            token = given
        elif self._constraint is None:
            token = self._sampler(logits, history, allowed)
        else:
            token = allowed_token(self._sampler, logits, history, self._constraint, allowed)
        if self._logprobs is not None and token is not None and token not in self.end_tokens:
            self._logprobs.note(logits, token)
        return token

    def order(self, history: Sequence[int], draft: Sequence[int]) -> ChoiceOrder | None:
        """How to choose behind ``history`` and each guess, where that is done far from here."""
        if self._orders is None:
            return None
        from edgellama.generation.decoding.choice_orders import rules_along
        from edgellama.sampling.choice_order import bits_of

        # Behind the guesses nothing can be refused yet.
        allowed = self._refused.allowed(len(history), self._vocab_size)
        if self._constraint is None:
            others = [None] * len(draft)
            rules: list[Rule] = [] if allowed is None else [bits_of(allowed), *others]
            return self._orders.order(history, draft, rules)
        rules = rules_along(
            self._constraint, draft, self._vocab_size, self.end_tokens,
            appends_certain=not self._wants_logits, allowed=allowed,
        )  # fmt: skip
        return self._orders.order(history, draft, rules)

    def certain(self) -> Sequence[int]:
        """Tokens that must come next in any case.

        None if each is to have logits of its own, also where it is certain anyway.
        """
        if self._constraint is None or self._wants_logits:
            return ()
        return self._constraint.forced()

    def _ordered(self, orders: ChoiceOrders, row: Logits, place: int) -> int | None:
        """The token of a row that was chosen far from here; its chances are used up with it."""
        chosen = orders.chosen(row, self._vocab_size)
        if chosen is None:
            return None
        found = None if isinstance(chosen, int) else chosen
        token = chosen if isinstance(chosen, int) else chosen.token
        forced = () if self._constraint is None else self._constraint.forced()
        if not forced or self.is_refused(place, forced[0]):
            orders.taken()
        if found is not None and self._logprobs is not None and token not in self.end_tokens:
            self._logprobs.note_found(found)
        return token

    def is_refused(self, place: int, token: int) -> bool:
        """Whether a token cannot stand at a place of the history."""
        return self._refused.has(place, token)

    def note(self, token: int) -> None:
        """A token is the text's next one."""
        if self._constraint is not None:
            self._constraint.advance(token)

    def refuse(self, place: int, token: int) -> None:
        """A token must not stand at a place of the history again, behind the same tokens."""
        self._refused.add(place, token)

    def take_back(self, num_tokens: int) -> None:
        """The last tokens do not belong to the text any more."""
        if num_tokens and self._constraint is not None:
            self._constraint.rollback(num_tokens)
        if self._logprobs is not None:
            self._logprobs.drop(num_tokens)

    def with_logprobs(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """Chunks of the text's next tokens, with their log-probabilities."""
        return chunks if self._logprobs is None else self._logprobs.with_logprobs(chunks)
