"""What a conversation does when its messages no longer fit the context.

It knows messages and the lengths of their prompts. The conversation turns them into tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import get_args

from edgellama.generation.argument_types import WhenFull
from edgellama.generation.results import Chunk, Generation, Statistics
from edgellama.quant.errors import InvalidOptionError


def check_when_full(value: object) -> None:
    """InvalidOptionError unless it is one of the ways."""
    ways = get_args(WhenFull)
    if value not in ways:
        raise InvalidOptionError(f"when_full is {value!r}; allowed: {', '.join(ways)}")


def first_kept(
    turns: Sequence[Mapping[str, object]],
    first: int,
    context_length: int,
    max_tokens: int | None,
    prompt_length: Callable[[int], int],
) -> int:
    """The index in ``turns`` from which on the model is to see them: ``first`` or a later one.

    Whole oldest turns go, each a user's message with what follows it, when the prompt leaves
    no room for a reply: ``max_tokens``, or a quarter of the context if that is less. Then as
    many go as bring the prompt down to half of the context, because each change of what comes
    first makes the model read everything again. The last turn stays in any case.
    ``prompt_length`` gives the tokens of the prompt from a turn on.
    """
    quarter = context_length // 4
    room = quarter if max_tokens is None else min(max_tokens, quarter)
    starts = [index for index, message in enumerate(turns) if message["role"] == "user"]
    first = min(first, starts[-1]) if starts else 0
    if prompt_length(first) + room <= context_length:
        return first
    later = [index for index in starts if index > first]
    if not later:
        return first
    shortest_first = later[::-1]
    # Bisected, because to know a prompt's length means to encode it.
    fitting = bisect_left(shortest_first, context_length // 2 + 1, key=prompt_length)
    return shortest_first[max(fitting - 1, 0)]


class NoReply:
    """Stands for a generation whose prompt is longer than the context: it ends at once."""

    prefill_progress = (0, 0)

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens

    def steps(self) -> Iterator[Chunk]:
        """A generator of no chunk."""
        yield from ()

    def result(self) -> Generation:
        """An empty text that ended because the context is full."""
        return Generation(
            text="",
            tokens=(),
            prompt_tokens=self._prompt_tokens,
            finish_reason="context",
            statistics=Statistics(self._prompt_tokens, 0, 0, 0.0, 0.0, 0.0),
        )
