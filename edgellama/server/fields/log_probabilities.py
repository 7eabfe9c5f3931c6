"""Writes log-probabilities as each protocol has them.

``generation.decoding.logprobs`` computes the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from edgellama.server.errors import refused

if TYPE_CHECKING:
    from edgellama.generation.results import Generation, TokenLogprob

MAX_ALTERNATIVES = 20


def wanted_logprobs(is_wanted: bool, num_alternatives: int | None) -> dict[str, Any]:
    """``logprobs`` and ``top_logprobs`` of a chat, as an option of its text."""
    if not is_wanted:
        if num_alternatives:
            raise refused(
                "top_logprobs", "top_logprobs is given; allowed: where logprobs are asked for"
            )
        return {}
    return {"logprobs": alternatives(num_alternatives or 0, "top_logprobs")}


def alternatives(number: int, param: str) -> int:
    """A number of alternatives; RequestError if it is out of range."""
    if not 0 <= number <= MAX_ALTERNATIVES:
        raise refused(param, f"{param} is {number}; allowed: 0 to {MAX_ALTERNATIVES}")
    return number


def text_logprobs(result: Generation) -> Sequence[TokenLogprob] | None:
    """Log-probabilities of the tokens that were not thought, if they were asked for."""
    if result.logprobs is None:
        return None
    thought = {*result.reasoning_places}
    return [found for place, found in enumerate(result.logprobs) if place not in thought]


def chat_logprobs(found: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their alternatives, as in OpenAI's chats and in Ollama's."""
    return [
        {
            **token_logprob(each),
            "top_logprobs": [token_logprob(other) for other in each.alternatives],
        }
        for each in found
    ]


def completion_logprobs(
    found: Sequence[TokenLogprob], first_text: str | None = None, offset: int = 0
) -> dict[str, Any]:
    """Rows by kind, as in OpenAI's completions.

    ``first_text`` is a token before all, of which nothing is known; ``offset`` is where the first
    begins in the text, below zero where it is no part of that.
    """
    texts = [*([] if first_text is None else [first_text]), *(each.text for each in found)]
    unknown: list[Any] = [] if first_text is None else [None]
    offsets = list(accumulate(map(len, texts), initial=offset))
    return {
        "tokens": texts,
        "token_logprobs": [*unknown, *(each.logprob for each in found)],
        "top_logprobs": [
            *unknown,
            *({other.text: other.logprob for other in each.alternatives} for each in found),
        ],
        "text_offset": [max(0, each) for each in offsets[: len(texts)]],
    }


def token_logprob(each: TokenLogprob) -> dict[str, Any]:
    """A token without its alternatives; its bytes tell more where it is a part of a character."""
    return {"token": each.text, "logprob": each.logprob, "bytes": list(each.token_bytes)}
