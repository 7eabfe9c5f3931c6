"""What a generation gives back: its pieces while it runs, the whole with figures at the end.

Plain frozen data; how tokens come about is known to decoding and session.
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
    ``text``. ``alternatives`` are the likeliest tokens at its place, the likeliest first; the
    token may be among them. ``token_bytes`` is the token in UTF-8: where several tokens make one
    character, their bytes joined are what their texts do not tell.

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
    """One step's ``text``. It may be empty, inside a character or a possible stop string.

    ``reasoning`` is what a chat's model thinks before it says anything, which is no part of
    ``text``.

    ``token`` is its id, None for text that was held back and belongs to no further token.
    ``logprobs`` has its log-probability, if that was asked for. ``calls`` are pieces of calls of
    tools, in forms that tell them while they are written; their text is no part of ``text``.

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


@dataclass(frozen=True)
class Statistics:
    """Counts and seconds of one generation; time that the caller spent is not counted.

    ``prompt_tokens`` are those of the prompt, ``prefilled_tokens`` of them were computed, the
    rest came from the session's cache. ``decoded_tokens`` counts the steps of one token after
    it. ``prefill_s`` and ``decode_s`` are the seconds of both, ``time_to_first_token_s`` those
    until the first token was chosen. Of ``drafted_tokens``, which were guessed ahead,
    ``accepted_tokens`` were right. ``cache_bytes`` is the memory of the sequence's keys and
    values at the end, with what it shares with others.

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

    ``prompt_tokens`` are those of its prompt, ``cached_tokens`` those among them that were not
    computed, ``generated_tokens`` the text's own, ``reasoning_tokens`` those among these that
    thinking took.

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
        """Of prompt and text."""
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True)
class Generation:
    """A generated text.

    ``text`` is what came after the prompt. ``tokens`` are its ids, without the prompt's (of
    which there are ``prompt_tokens``) and without the token that ended it. ``finish_reason``:
    "stop" by an end token, a stop token or a stop string, which ``matched_stop`` has (an id or
    the string); "length" by ``max_tokens``; "context" because the context has no room left;
    "cancelled" by the caller; "timeout" by its option; "tool_calls" to call tools; "constraint"
    where what the text must match has no way on.
    ``parsed`` is what a text says that was asked for by ``schema``, ``json`` or ``choices``: the
    object, None if the text was cut, or if the class refuses it for reasons that its schema does
    not tell, which ``parse_error`` then names.
    ``tool_calls`` are what a reply calls, of the tools that were given; ``text`` is without them.
    ``reasoning`` is what a chat's model thought before, if it is one that does, also no part of
    ``text``; ``reasoning_tokens`` of the tokens were taken by it.
    ``dropped_messages`` of the conversation went out of the prompt to make room for this reply.
    ``statistics`` has counts and seconds, ``index`` is the number of its prompt in a batch.
    ``logprobs`` has one for each of the tokens, ``prompt_logprobs`` for each of the prompt's
    (None for the first), if they were asked for.

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
    reasoning_tokens: int = 0

    @property
    def context_full(self) -> bool:
        """Whether the text ended because the context has no room left."""
        return self.finish_reason == "context"

    @property
    def usage(self) -> Usage:
        """Tokens of prompt and text, and how many of the prompt's came from a cache."""
        cached = max(0, self.prompt_tokens - self.statistics.prefilled_tokens)
        return Usage(self.prompt_tokens, cached, len(self.tokens), self.reasoning_tokens)
