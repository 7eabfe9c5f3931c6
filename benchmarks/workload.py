"""What both workers run and how they report it, so that neither can differ.

Imports neither engine: each worker runs in the interpreter that has its own.
"""

from __future__ import annotations

import argparse
import json
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
    num_threads: int
    context_length: int
    prompt_tokens: int
    decode_tokens: int
    depths: tuple[int, ...]
    repeats: int


@dataclass(frozen=True)
class Context:
    """An engine's context: ``append`` returns when the last token's logits are there.

    ``keep`` forgets all tokens but the first so many.
    """

    append: Callable[[Sequence[int]], None]
    keep: Callable[[int], None]


Speeds: TypeAlias = dict[str, float]


def read_workload() -> Workload:
    """The task from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2, dest="num_threads")
    parser.add_argument("--context", type=int, default=4096, dest="context_length")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--depths", type=_counts, default=(0,), help="with commas between")
    parser.add_argument("--repeats", type=int, default=1)
    return Workload(**vars(parser.parse_args()))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(word) for word in text.split(",")))


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
    print(json.dumps({"speeds": speeds, "description": description}))
