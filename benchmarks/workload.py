"""What both engines' workers run and how they report it, so that neither can differ.

Imports neither engine: each worker runs in the interpreter that has its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

WARM_UP_TOKENS = 64
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
    repeats: int


@dataclass(frozen=True)
class Speeds:
    """Medians of a worker's repeats, and what it ran on."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    load_s: float
    description: dict[str, str] = field(default_factory=dict)


def read_workload() -> Workload:
    """The task from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2, dest="num_threads")
    parser.add_argument("--context", type=int, default=4096, dest="context_length")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    return Workload(**vars(parser.parse_args()))


def pseudo_random_tokens(count: int, vocab_size: int) -> list[int]:
    """The same ids on every run and in every interpreter."""
    state, tokens = 12345, []
    span = vocab_size - 2 * FIRST_ORDINARY_TOKEN
    for _ in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        tokens.append(FIRST_ORDINARY_TOKEN + (state >> 8) % span)
    return tokens


def measure(
    work: Workload,
    vocab_size: int,
    load_s: float,
    forget: Callable[[], None],
    forward: Callable[[Sequence[int]], None],
) -> Speeds:
    """Time prompts and the decoding after them.

    ``forget`` empties the context; ``forward`` appends tokens to it and returns when the last
    one's logits are there. The next token is given, not sampled.
    """
    tokens = pseudo_random_tokens(work.prompt_tokens + work.decode_tokens, vocab_size)
    prompt, continuation = tokens[: work.prompt_tokens], tokens[work.prompt_tokens :]
    forward(prompt[:WARM_UP_TOKENS])
    forward(prompt[:1])
    prefill, decode = [], []
    for _ in range(work.repeats):
        forget()
        started = perf_counter()
        forward(prompt)
        read = perf_counter()
        for token in continuation:
            forward([token])
        ended = perf_counter()
        prefill.append(len(prompt) / (read - started))
        decode.append(len(continuation) / (ended - read))
    return Speeds(median(prefill), median(decode), load_s)


def report(speeds: Speeds, description: dict[str, str]) -> None:
    """Print the one line of JSON that the comparison reads."""
    print(json.dumps(asdict(speeds) | {"description": description}))
