"""The results of a generation: pieces while it runs, and the whole text with figures.

These are plain frozen data; ``decoding`` and sessions make them.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import edgellama
from edgellama.quant.records import dataclass

FinishReason: TypeAlias = Literal[
    "stop", "length", "context", "cancelled", "timeout", "tool_calls", "constraint"
]


@dataclass(frozen=True)
class TokenLogprob:
    """How probable the model itself found a token, before any sampling option.

    ``logprob`` is the natural logarithm of the probability of ``token``, whose own text is
    ``text``. ``alternatives`` are the likeliest tokens at its place, likeliest first; the token may
    be among them. ``token_bytes`` is the token in UTF-8; if several tokens form one character, join
    their bytes.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     result = llama.generate("The capital of France is", max_tokens=1, logprobs=2)
        >>> [each.text for each in (result.logprobs or ())[0].alternatives]
        [' Paris', ' the']
    """

    token: int
    text: str
    logprob: float
    alternatives: tuple[TokenLogprob, ...] = ()
    token_bytes: bytes = b""


@dataclass(frozen=True)
class Chunk:
    """A piece of ``text``; empty within a character, or while it may become a stop string.

    ``reasoning`` is a piece of the thinking of a chat's model, which is no part of ``text``;
    ``is_reasoning``: the token belongs to thinking, perhaps as a mark of it.

    ``token`` is the token's id, or None for text that was held back and belongs to no further
    token. ``logprobs`` is its log-probability, if you asked for it. ``calls`` are pieces of tool
    calls, where the model's form of calls allows reading them early; they are no part of ``text``.

    Example:
        >>> from edgellama import Chunk
        >>> Chunk(" llama", 1234).text
        ' llama'
    """

    text: str
    token: int | None
    logprobs: TokenLogprob | None = None
    calls: tuple[edgellama.CallPiece, ...] = ()
    reasoning: str = ""
    is_reasoning: bool = False


@dataclass(frozen=True)
class Statistics:
    """Counts and seconds of one generation, without time that the caller spent.

    Of the prompt's ``prompt_tokens``, ``prefilled_tokens`` were computed; the rest came from a
    cache. ``decoded_tokens`` counts the steps of one token after the prompt. ``prefill_s`` and
    ``decode_s`` are the seconds for both, and ``time_to_first_token_s`` those until the first token
    was chosen. Of ``drafted_tokens`` guesses, ``accepted_tokens`` were right. ``cache_bytes`` is
    the memory of keys and values at the end, including those shared with other sequences.

    Example:
        >>> from edgellama import Statistics
        >>> figures = Statistics(
        ...     prompt_tokens=512, prefilled_tokens=512, decoded_tokens=100,
        ...     prefill_s=2.0, decode_s=4.0, time_to_first_token_s=2.1,
        ... )
        >>> figures.prefill_tokens_per_second, figures.decode_tokens_per_second
        (256.0, 25.0)
    """

    prompt_tokens: int
    prefilled_tokens: int
    decoded_tokens: int
    prefill_s: float
    decode_s: float
    time_to_first_token_s: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    cache_bytes: int = 0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Computed prompt tokens per second; 0.0 if none was computed."""
        return self.prefilled_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Generated tokens per second after the first; 0.0 if there was no more than one."""
        return self.decoded_tokens / self.decode_s if self.decode_s else 0.0


@dataclass(frozen=True)
class Usage:
    """How many tokens a text took.

    ``prompt_tokens`` counts the prompt's tokens, of which ``cached_tokens`` needed no computing.
    ``generated_tokens`` counts the text's tokens, of which ``reasoning_tokens`` were thinking.

    Example:
        >>> from edgellama import Usage
        >>> Usage(prompt_tokens=100, cached_tokens=60, generated_tokens=20).total_tokens
        120
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """The tokens of prompt and text together."""
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True)
class Generation:
    """A generated text.

    ``text`` is the text after the prompt, and ``tokens`` are its ids, without the token that ended
    it. The prompt had ``prompt_tokens`` tokens.

    ``finish_reason`` says why the text ended: "stop" (an end token, a stop token or a stop string;
    ``matched_stop`` is its id or the string), "length" (``max_tokens``), "context" (the context is
    full), "cancelled" (by the caller), "timeout", "tool_calls" (it calls tools) or "constraint"
    (nothing can follow that matches the required form).

    ``parsed`` is the object that the text describes, for texts with ``schema``, ``json`` or
    ``choices``. It is None if the text was cut, or if the class refuses the text for a reason that
    its schema does not show; ``parse_error`` then says why. ``tool_calls`` are the calls in a
    reply; they are no part of ``text``. ``reasoning`` is the thinking of a model that thinks before
    it answers, also no part of ``text``; it took ``reasoning_tokens`` of the tokens, those at
    ``reasoning_places`` in ``tokens``.

    ``dropped_messages`` counts the conversation's messages that were left out to make room for this
    reply. ``statistics`` has counts and seconds. ``index`` is the number of the prompt in a batch.
    ``logprobs`` has an entry for each token, ``prompt_logprobs`` for each token of the prompt (None
    for the first), if you asked for them.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     result = llama.generate("Once upon", max_tokens=2, temperature=0)
        >>> len(result.tokens), result.finish_reason, result.usage.generated_tokens
        (2, 'length', 2)
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    statistics: Statistics
    matched_stop: str | int | None = None
    dropped_messages: int = 0
    index: int = 0
    parsed: Any = None
    parse_error: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    tool_calls: tuple[edgellama.ToolCall, ...] = ()
    reasoning: str = ""
    reasoning_places: tuple[int, ...] = ()

    @property
    def reasoning_tokens(self) -> int:
        """How many of the tokens were thinking."""
        return len(self.reasoning_places)

    @property
    def context_full(self) -> bool:
        """Whether the text ended because the context has no room left."""
        return self.finish_reason == "context"

    @property
    def usage(self) -> Usage:
        """Tokens of prompt and text, and how many of the prompt's came from a cache."""
        cached = max(0, self.prompt_tokens - self.statistics.prefilled_tokens)
        return Usage(self.prompt_tokens, cached, len(self.tokens), self.reasoning_tokens)
