"""What a constraint costs: texts with and without one, in alternation.

A constrained token is compared with a free one of the same round. Tokens that a form makes certain
take no step of their own, so seconds are told by step and by token, the prompt's among them. One
thread is timed by its own clock, which stops while somebody else has the core; several are by the
wall's, so there the machine should be quiet. The time to compile a form is told apart: it is spent
once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgellama import Llama
from edgellama.constraints.answer_form import answer_form
from edgellama.constraints.compiler import ConstraintCompiler
from edgellama.sampling.constraint import allowed_token
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler

PROMPT = "The quick brown fox and its friends, in a list:"
ITEMS = {"type": "array", "items": {"type": "string"}, "minItems": 1000}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2},
        "note": {"type": "string"},
    },
    "required": ["name", "age", "colours", "note"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "free": {},
    "any text": {"regex": r"(?s:.*)"},
    "words": {"regex": r"([a-zA-Z]+[ ,.])*"},
    "strings": {"schema": ITEMS},
    "objects": {"schema": {"type": "array", "items": PERSON, "minItems": 1000}},
}


def first_use(llama: Llama, options: dict[str, Any]) -> float:
    """Seconds until a form's first token is there, beyond those of its second use."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        llama.generate(PROMPT, max_tokens=1, **options)
        seconds.append(time.perf_counter() - started)
    return seconds[0] - seconds[1]


def choice_seconds(llama: Llama, options: dict[str, Any], num_tokens: int) -> list[float]:
    """Seconds of this thread to choose each of some tokens, all of the constraint included."""
    tokenizer, rng = llama.tokenizer, np.random.default_rng(0)
    sampler = Sampler(SamplingOptions(seed=0), llama._engine.kernels)
    form = answer_form(options)
    compiler = tokenizer.derived(ConstraintCompiler)
    constraint = None if form is None else compiler.constraint(form, continuation=True)
    seconds = []
    for _ in range(num_tokens):
        logits = rng.normal(scale=3.0, size=llama.config.vocab_size).astype(np.float32)
        started = time.thread_time()
        if constraint is None:
            sampler(logits, [0])
        else:
            token = allowed_token(sampler, logits, [0], constraint)
            if token is None or token in tokenizer.special.end_of_generation:
                constraint = compiler.constraint(form, continuation=True) if form else None
                continue
            constraint.advance(token)
        seconds.append(time.thread_time() - started)
    return seconds


def print_first_uses(llama: Llama, num_tokens: int) -> None:
    """Print the first use of each form, and what choosing one of its tokens takes."""
    for name, form in FORMS.items():
        print(f"{name}: first use {1e3 * first_use(llama, form):.1f} ms")
    for name, form in FORMS.items():
        microseconds = 1e6 * np.array(choice_seconds(llama, form, num_tokens))
        print(
            f"{name}: choosing takes {np.median(microseconds):.0f} us in the median, "
            f"{microseconds.mean():.0f} us in the mean"
        )


def text_seconds(
    llama: Llama, options: argparse.Namespace, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds a step and a token of each form's texts, by round; forms alternate."""
    steps: dict[str, list[float]] = {name: [] for name in FORMS}
    tokens: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(options.rounds):
        names = list(FORMS) if number % 2 else list(reversed(FORMS))
        for name in names:
            started = clock()
            result = llama.generate(
                PROMPT,
                max_tokens=options.tokens,
                temperature=options.temperature,
                ignore_eos=True,
                speculation=False,
                seed=number,
                **FORMS[name],
            )
            seconds = clock() - started
            steps[name].append(seconds / max(1, result.statistics.decoded_tokens))
            tokens[name].append(seconds / len(result.tokens))
    return steps, tokens


def main() -> None:
    """Print the first use of each form, and what its tokens and steps cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.8)
    options = parser.parse_args()
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    with Llama(options.model, context_length=1024, num_threads=options.threads) as llama:
        llama.generate(PROMPT, max_tokens=8)
        print(f"{llama.tokenizer.vocab_size} tokens in the vocabulary")
        print_first_uses(llama, 4 * options.tokens)
        steps, tokens = text_seconds(llama, options, clock)
    for name in FORMS:
        step, token = (
            np.median(np.array(found[name]) / np.array(found["free"])) - 1
            for found in (steps, tokens)
        )
        print(
            f"{name}: {1e3 * np.median(steps[name]):.2f} ms a step ({step:+.1%}), "
            f"{1e3 * np.median(tokens[name]):.2f} ms a token ({token:+.1%})"
        )


if __name__ == "__main__":
    main()
