"""How probable a model finds a text, and which of several continuations of a prompt.

A common beginning is computed once, and then forked. ``logprobs`` computes log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeAlias, get_args

from edgellama.engine.pages.page_keys import shared_length
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.work import Work
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.weights.adapter_set import AdapterSet
from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.argument_types import Normalization
from edgellama.generation.arguments import prompt_tokens
from edgellama.generation.concurrency.in_order import Begun, BegunTexts, InOrder
from edgellama.generation.concurrency.waiting_line import WaitingLine
from edgellama.generation.decoding.logprobs import PromptLogprobs
from edgellama.generation.results import Generation, TokenLogprob
from edgellama.generation.text_request import Request
from edgellama.quant.errors import GenerationCancelled, InvalidOptionError
from edgellama.quant.given_values import whole_or_none
from edgellama.quant.records import dataclass
from edgellama.sampling.options import SamplingOptions
from edgellama.text.tokenizer import Tokenizer

Prompt: TypeAlias = str | Sequence[int]


@dataclass(frozen=True)
class Score:
    """How probable a text is; ``tokens`` has the log-probability of each token.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     likely = llama.score(" Paris.", "The capital of France is")
        ...     odd = llama.score(" purple.", "The capital of France is")
        >>> likely.logprob > odd.logprob, len(likely.tokens), likely.perplexity < odd.perplexity
        (True, 2, True)
    """

    tokens: tuple[TokenLogprob, ...]

    @classmethod
    def of(cls, result: Generation) -> Score:
        """The score of a text that was generated with ``prompt_logprobs``.

        GenerationCancelled if it ended early.
        """
        if result.finish_reason in ("cancelled", "timeout"):
            raise GenerationCancelled("the text was cancelled before it was scored")
        return cls(tuple(each for each in result.prompt_logprobs or () if each is not None))

    @property
    def logprob(self) -> float:
        """The natural logarithm of the text's probability: the sum over its tokens."""
        return math.fsum(each.logprob for each in self.tokens)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of a token; 1.0 of no token."""
        return math.exp(-self.logprob / len(self.tokens)) if self.tokens else 1.0


@dataclass(frozen=True)
class Classification:
    """How probable each of several choices is.

    The ``probabilities`` add up to 1. ``logprobs`` are the log-probabilities before that.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     found = llama.classify("The sky is", [" blue", " a fish"])
        >>> found.best, round(sum(found.probabilities.values()), 6)
        (' blue', 1.0)
    """

    probabilities: Mapping[str, float]
    logprobs: Mapping[str, float]

    @property
    def best(self) -> str:
        """The most probable choice, the first of equals."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


def score_request(
    tokenizer: Tokenizer,
    text: Prompt,
    prompt: Prompt | None = None,
    *,
    alternatives: int = 0,
    parse_special: bool = False,
    adapters: AdapterScales | None = None,
) -> Request:
    """The request whose ``prompt_logprobs`` are those of a text, behind a prompt if there is one.

    InvalidOptionError for a text without tokens.
    """
    if prompt is None:
        tokens, first = prompt_tokens(tokenizer, text, parse_special=parse_special), 1
    else:
        before = prompt_tokens(tokenizer, prompt, parse_special=parse_special)
        tokens = _joined(tokenizer, prompt, before, text, parse_special)
        first = max(1, shared_length(before, tokens))
    if len(tokens) <= first and not (prompt is None and tokens):
        if not tokens or not text:
            raise InvalidOptionError("the text is empty; allowed: at least one token")
        raise InvalidOptionError(
            "prompt and text are one token together; allowed: a token of the prompt before the text"
        )
    return Request(
        tokens,
        SamplingOptions(),
        max_tokens=0,
        prompt_logprobs=whole_or_none("alternatives", alternatives, 0) or 0,
        first_logprob=first,
        adapters=adapters,
    )


def _joined(
    tokenizer: Tokenizer, prompt: Prompt, before: Sequence[int], text: Prompt, parse_special: bool
) -> list[int]:
    """The tokens of a prompt and a text behind it; of two strings those of the whole string."""
    if isinstance(prompt, str) and isinstance(text, str):
        return prompt_tokens(tokenizer, prompt + text, parse_special=parse_special)
    if isinstance(text, str):
        return [*before, *tokenizer.encode(text, add_bos=False, parse_special=parse_special)]
    return [*before, *prompt_tokens(tokenizer, text, parse_special=parse_special)]


@dataclass(frozen=True)
class Classifier:
    """Scores choices behind a prompt, whose tokens are ``before``.

    ``line``: where they wait for their turn.
    """

    engine: TextEngine
    tokenizer: Tokenizer
    choices: Sequence[str]
    normalization: Normalization
    before: Sequence[int]
    texts: Sequence[Sequence[int]]
    adapters: AdapterSet
    line: WaitingLine

    def logprobs(self) -> InOrder[tuple[float, int]]:
        """The log-probability of each choice, and of how many tokens it is."""
        return InOrder(self.engine, self.line, self._begun)

    def _begun(self, cancel: CancelToken) -> BegunTexts[tuple[float, int]]:
        first = min(shared_length(self.before, text) for text in self.texts)
        longest = max(map(len, self.texts))
        base = self.engine.new_cache(longest, adapters=self.adapters, is_passing=True)
        try:
            if first > 1:
                shared = self.before[: first - 1]
                self.engine.forward(shared, base, logits="none", cancelled=cancel)
            for text in self.texts:
                scored = PromptLogprobs(self.tokenizer, text, 0, first)
                cache = base.fork()
                tokens, _ = scored.next_tokens(cache.length)
                if self.engine.orders_choices:
                    order = scored.order(None, self.engine.config.vocab_size)
                    self.engine.order_choice(cache, order)
                work = self.engine.work(
                    tokens[:-1], cache, logits="all", cancelled=cancel, kept=scored.keep
                )
                yield Begun(work, cache, partial(_total, work, scored))
        finally:
            base.close()


def _total(work: Work, scored: PromptLogprobs) -> tuple[float, int]:
    work.result(0)
    found = [each.logprob for each in scored.found if each is not None]
    return math.fsum(found), len(found)


def classifier(
    engine: TextEngine,
    tokenizer: Tokenizer,
    prompt: Prompt,
    choices: Sequence[str],
    *,
    normalization: Normalization,
    parse_special: bool,
    adapters: AdapterSet,
    line: WaitingLine,
) -> Classifier:
    """What scores choices; InvalidOptionError for an empty prompt, and for no choices."""
    ways = get_args(Normalization)
    if not (normalization is None or isinstance(normalization, str)) or normalization not in ways:
        allowed = ", ".join(get_args(Normalization))
        raise InvalidOptionError(f"normalize is {normalization!r:.80}; allowed: {allowed}")
    is_list = isinstance(choices, (list, tuple))
    if not is_list or not choices or not all(isinstance(c, str) and c for c in choices):
        raise InvalidOptionError(
            f"choices is {choices!r:.80}; allowed: a list of texts, none of them empty"
        )
    if len(set(choices)) < len(choices):
        raise InvalidOptionError(f"choices is {choices!r:.80}; allowed: each text once")
    before = prompt_tokens(tokenizer, prompt, parse_special=parse_special)
    if not before:
        raise InvalidOptionError("the prompt is empty; allowed: at least one token")
    texts = [_joined(tokenizer, prompt, before, choice, parse_special) for choice in choices]
    return Classifier(
        engine, tokenizer, tuple(choices), normalization, before, texts, adapters, line
    )


def classification(classifier: Classifier, found: Sequence[tuple[float, int]]) -> Classification:
    """Probabilities of choices by the log-probability and number of tokens of each."""
    choices, is_mean = classifier.choices, classifier.normalization == "mean"
    rated = [total / count if is_mean else total for total, count in found]
    largest = max(rated)
    weights = [math.exp(each - largest) for each in rated]
    total = math.fsum(weights)
    return Classification(
        MappingProxyType({c: weight / total for c, weight in zip(choices, weights, strict=True)}),
        MappingProxyType({c: each for c, (each, _) in zip(choices, found, strict=True)}),
    )
