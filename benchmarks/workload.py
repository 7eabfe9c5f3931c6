"""What both workers run and how they report it, so that neither can differ.

Imports neither engine: each worker runs in the interpreter that has its own. Nor argparse, which
would count as memory of an engine, since a megabyte comes with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

WARM_UP_TOKENS = 512
FIRST_ORDINARY_TOKEN = 1000
"""Control tokens and bytes of usual vocabularies are below, or among the last."""


@dataclass(frozen=True)
class Workload:
    """One worker's task; counts are tokens."""

    model: Path
    num_threads: int = 2
    context_length: int = 4096
    prompt_tokens: int = 512
    decode_tokens: int = 64
    depths: tuple[int, ...] = (0,)
    repeats: int = 1


FIELDS = {
    "--threads": "num_threads",
    "--context": "context_length",
    "--prompt-tokens": "prompt_tokens",
    "--decode-tokens": "decode_tokens",
    "--depths": "depths",
    "--repeats": "repeats",
}
"""The task's numbers by the options that give them; depths with commas between."""


@dataclass(frozen=True)
class Context:
    """An engine's context: ``append`` returns when the last token's logits are there.

    ``keep`` forgets all tokens but the first so many.
    """

    append: Callable[[Sequence[int]], None]
    keep: Callable[[int], None]


Speeds: TypeAlias = dict[str, float]


def read_workload() -> Workload:
    """The task from the command line: the model, then pairs of an option and its value."""
    model, *words = sys.argv[1:]
    options = {FIELDS[word]: value for word, value in zip(words[::2], words[1::2], strict=True)}
    depths = sorted(map(int, options.pop("depths", "0").split(",")))
    numbers = {field: int(value) for field, value in options.items()}
    return Workload(Path(model), depths=tuple(depths), **numbers)


def pseudo_random_tokens(count: int, vocab_size: int) -> list[int]:
    """The same ids on every run and in every interpreter."""
    state, tokens = 12345, []
    first = min(FIRST_ORDINARY_TOKEN, vocab_size // 4)
    span = vocab_size - 2 * first
    for _ in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        tokens.append(first + (state >> 8) % span)
    return tokens


def measure(work: Workload, vocab_size: int, context: Context) -> list[Speeds]:
    """Tokens per second at each depth: of a prompt that follows so many tokens, and of decoding.

    Medians of the repeats. The next token is given, not sampled.
    """
    num_timed = max(work.prompt_tokens, work.decode_tokens)
    tokens = pseudo_random_tokens(work.depths[-1] + num_timed, vocab_size)
    context.append(tokens[: min(WARM_UP_TOKENS, work.prompt_tokens)])
    context.keep(0)
    context.append(tokens[:1])
    results, held = [], 0
    for depth in work.depths:
        context.keep(held)
        if depth > held:
            context.append(tokens[held:depth])
        held = depth
        prompt = tokens[depth : depth + work.prompt_tokens]
        singles = [[token] for token in tokens[depth : depth + work.decode_tokens]]
        results.append(
            {
                "depth": depth,
                "prefill": _speed(context, depth, [prompt], work.repeats),
                "decode": _speed(context, depth, singles, work.repeats),
            }
        )
    return results


def _speed(context: Context, depth: int, pieces: Sequence[Sequence[int]], repeats: int) -> float:
    """Tokens per second of ``pieces``, one after the other, from ``depth`` on."""
    speeds = []
    for _ in range(repeats):
        context.keep(depth)
        started = perf_counter()
        for piece in pieces:
            context.append(piece)
        speeds.append(sum(map(len, pieces)) / (perf_counter() - started))
    return _median(speeds)


def _median(values: Sequence[float]) -> float:
    """As of ``statistics``, whose import would count as memory of both engines."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2


def report(speeds: Sequence[Speeds], description: str) -> None:
    """Print the one line of JSON that the comparison reads."""
    import json  # after all that is measured

    print(json.dumps({"speeds": speeds, "description": description}))
