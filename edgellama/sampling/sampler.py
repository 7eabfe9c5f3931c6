"""Composes filters and penalties once into a function from logits to the next token.

They run in the order repetition penalty, DRY, top-k, top-p, min-p, temperature. A kernel that
comes to the same tokens faster may stand in for the filters. Where the logits come from and when
a text ends is left to others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgellama.sampling.dry import Breaks, GrowingTokens, penalize_repetitions
from edgellama.sampling.filters import (
    Indices,
    Logits,
    check_finite,
    draw,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
)
from edgellama.sampling.options import WHOLE_HISTORY, SamplingOptions
from edgellama.sampling.penalties import SeenTokens, penalize_repeats

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels

Sampler: TypeAlias = Callable[[Logits, Sequence[int]], int]
"""From float32 logits [vocab_size] and the tokens so far to the next token."""
Penalty: TypeAlias = Callable[[Logits, Sequence[int]], Logits]


def make_sampler(
    options: SamplingOptions,
    kernels: CompiledKernels | None = None,
    *,
    end_tokens: Collection[int] = (),
    breaks: Breaks = lambda token: False,
) -> Sampler:
    """A function from logits and history to a token; it holds its own random generator.

    Use one sampler for one text, whose history only grows. It raises EdgellamaError where the
    likeliest logit is not finite, which only a broken model produces. With ``kernels``, compiled
    code chooses the same tokens in a fraction of the time. ``end_tokens`` are never weakened, so
    that a text can end as others did before; ``breaks`` says at which tokens DRY's sequences end.
    """
    penalties = _penalties(options, frozenset(end_tokens), breaks)
    filters = _filters(options)
    choose = _kernel_choice(options, kernels) if kernels and options.temperature else None
    generator = np.random.default_rng(options.seed)
    temperature = float(options.temperature)

    def sample(logits: Logits, history: Sequence[int]) -> int:
        kept = logits if temperature == 0 else np.asarray(logits, np.float32)
        for penalize in penalties:
            kept = penalize(kept, history)
        if temperature == 0:
            return greedy(kept)
        fraction = generator.random()
        token = choose(kept, fraction) if choose else None
        if token is not None:
            return token
        check_finite(kept.max())
        tokens = np.arange(len(kept))
        for keep in filters:
            indices = keep(kept)
            kept, tokens = kept[indices], tokens[indices]
        return int(tokens[draw(kept, temperature, fraction)])

    return sample


def _penalties(
    options: SamplingOptions, end_tokens: frozenset[int], breaks: Breaks
) -> list[Penalty]:
    penalties: list[Penalty] = []
    if options.repeat_penalty != 1 and options.repeat_last_n != 0:
        penalties.append(_repeat_penalty(options, end_tokens))
    if options.dry_multiplier > 0 and options.dry_last_n != 0:
        penalties.append(_dry(options, lambda token: token in end_tokens or breaks(token)))
    return penalties


def _repeat_penalty(options: SamplingOptions, spared: frozenset[int]) -> Penalty:
    penalty, last_n = float(options.repeat_penalty), int(options.repeat_last_n)
    seen = SeenTokens()

    def penalize(logits: Logits, history: Sequence[int]) -> Logits:
        recent = seen.of(history) if last_n == WHOLE_HISTORY else history[-last_n:]
        return penalize_repeats(logits, [t for t in recent if t not in spared], penalty)

    return penalize


def _dry(options: SamplingOptions, breaks: Breaks) -> Penalty:
    multiplier, base = float(options.dry_multiplier), float(options.dry_base)
    allowed_length, last_n = int(options.dry_allowed_length), int(options.dry_last_n)
    tokens = GrowingTokens(breaks)

    def penalize(logits: Logits, history: Sequence[int]) -> Logits:
        return penalize_repetitions(
            logits,
            *tokens.last(history, last_n),
            multiplier=multiplier,
            base=base,
            allowed_length=allowed_length,
        )

    return penalize


def _kernel_choice(
    options: SamplingOptions, kernels: CompiledKernels
) -> Callable[[Logits, float], int | None]:
    """What ``make_sampler`` composes, as one kernel; None where it leaves it to the filters."""
    from edgellama.kernels_cpu.sampling.chooser import TokenChooser

    return TokenChooser(
        kernels,
        top_k=int(options.top_k),
        top_p=float(options.top_p),
        min_p_distance=math.log(options.min_p) if options.min_p > 0 else -math.inf,
        temperature=float(options.temperature),
    ).choose


def _filters(options: SamplingOptions) -> list[Callable[[Logits], Indices]]:
    filters: list[Callable[[Logits], Indices]] = []
    if options.top_k > 0:
        filters.append(lambda logits: keep_top_k(logits, int(options.top_k)))
    if options.top_p < 1:
        filters.append(lambda logits: keep_top_p(logits, float(options.top_p)))
    if options.min_p > 0:
        filters.append(lambda logits: keep_min_p(logits, float(options.min_p)))
    return filters
