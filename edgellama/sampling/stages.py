"""The stages between logits and a token: each is made from the options once, or is off.

A stage takes candidates and returns others, computed in ``filters``, ``shape_filters``,
``penalties`` and ``dry``. The option ``samplers`` says which stages there are, and their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from edgellama.quant.records import dataclass
from edgellama.sampling.candidates import Candidates
from edgellama.sampling.chance import Chance
from edgellama.sampling.dry import Breaks, GrowingTokens, repetition_penalties
from edgellama.sampling.filters import Indices, Logits, keep_min_p, keep_top_k, keep_top_p
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.penalties import SeenTokens, penalize_seen

Stage: TypeAlias = "Callable[[Candidates, Sequence[int], Chance], Candidates]"
"""From candidates, the tokens so far and a source of chance to candidates, in rising order."""


@dataclass(frozen=True)
class SparedTokens:
    """What stages must know of a vocabulary.

    ``end_tokens`` are never weakened, so that a text can end as others did before; DRY's
    sequences end at tokens of which ``breaks`` says so.
    """

    end_tokens: frozenset[int]
    breaks: Breaks


def active_stages(options: SamplingOptions, spared: SparedTokens) -> dict[str, Stage]:
    """The stages that do something, by name, in their order; Mirostat stands in for filters."""
    names = [name for name in options.samplers if not options.mirostat or name in _WITH_MIROSTAT]
    made = {name: STAGES[name](options, spared) for name in names}
    return {name: stage for name, stage in made.items() if stage is not None}


def _penalties(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    repeat = float(options.repeat_penalty)
    frequency, presence = float(options.frequency_penalty), float(options.presence_penalty)
    last_n = int(options.repeat_last_n)
    if (repeat, frequency, presence) == (1, 0, 0) or last_n == 0:
        return None
    seen = SeenTokens(spared.end_tokens)

    def stage(given: Candidates, history: Sequence[int], chance: object) -> Candidates:
        counted = seen.of(history, last_n)
        places, found = given.places(counted)
        if not len(places):
            return given
        counts = np.fromiter(counted.values(), dtype=np.intp, count=len(counted))[found]
        return replace(
            given,
            logits=penalize_seen(
                *(given.logits, places, counts),
                repeat=repeat,
                frequency=frequency,
                presence=presence,
            ),
        )

    return stage


def _dry(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    multiplier, base = float(options.dry_multiplier), float(options.dry_base)
    # No history is longer than 2^53, and not all whole numbers beyond are floats.
    allowed_length, last_n = min(int(options.dry_allowed_length), 1 << 53), int(options.dry_last_n)
    if multiplier == 0 or last_n == 0:
        return None
    tokens = GrowingTokens(lambda token: token in spared.end_tokens or spared.breaks(token))

    def stage(given: Candidates, history: Sequence[int], chance: object) -> Candidates:
        repeating, losses = repetition_penalties(
            *tokens.last(history, last_n),
            multiplier=multiplier,
            base=base,
            allowed_length=allowed_length,
        )
        places, found = given.places(repeating)
        if not len(places):
            return given
        weakened = given.logits.copy()
        weakened[places] -= losses[found]
        return replace(given, logits=weakened)

    return stage


def _filter(keep: Callable[[Logits], Indices]) -> Stage:
    return lambda given, history, chance: given.kept(keep(given.logits))


def _top_n_sigma(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    num_sigmas = float(options.top_n_sigma)
    if num_sigmas <= 0:
        return None
    from edgellama.sampling.shape_filters import keep_top_n_sigma

    return _filter(lambda logits: keep_top_n_sigma(logits, num_sigmas))


def _top_k(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    k = int(options.top_k)
    return _filter(lambda logits: keep_top_k(logits, k)) if k else None


def _typical(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    mass = float(options.typical_p)
    if mass >= 1:
        return None
    from edgellama.sampling.shape_filters import keep_typical

    return _filter(lambda logits: keep_typical(logits, mass))


def _top_p(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    mass = float(options.top_p)
    return _filter(lambda logits: keep_top_p(logits, mass)) if mass < 1 else None


def _min_p(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    share = float(options.min_p)
    return _filter(lambda logits: keep_min_p(logits, share)) if share else None


def _xtc(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    probability, threshold = float(options.xtc_probability), float(options.xtc_threshold)
    if probability == 0 or threshold > 0.5:
        return None
    from edgellama.sampling.shape_filters import without_top_choices

    def stage(given: Candidates, history: object, chance: Chance) -> Candidates:
        if chance.random() >= probability:
            return given
        return given.kept(without_top_choices(given.logits, threshold))

    return stage


def _temperature(options: SamplingOptions, spared: SparedTokens) -> Stage | None:
    temperature, reach = float(options.temperature), float(options.dynatemp_range)
    exponent = float(options.dynatemp_exponent)
    if reach == 0:
        return None if temperature == 1 else lambda given, *_: cooled(given, temperature)
    from edgellama.sampling.shape_filters import dynamic_temperature

    return lambda given, *_: cooled(
        given, dynamic_temperature(given.logits, temperature, reach, exponent)
    )


def cooled(given: Candidates, temperature: float) -> Candidates:
    """Logits divided by the temperature; at 0 the largest alone, the first of equals."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        divided = given.logits / np.float32(temperature)
    if not np.isfinite(divided.max()):
        return given.kept(np.array([given.logits.argmax()], dtype=np.intp))
    return replace(given, logits=divided)


STAGES: Mapping[str, Callable[[SamplingOptions, SparedTokens], Stage | None]] = MappingProxyType(
    {
        "penalties": _penalties,
        "dry": _dry,
        "top_n_sigma": _top_n_sigma,
        "top_k": _top_k,
        "typ_p": _typical,
        "top_p": _top_p,
        "min_p": _min_p,
        "xtc": _xtc,
        "temperature": _temperature,
    }
)
"""What makes a stage, by its name among ``samplers``; None from one that would do nothing."""
_WITH_MIROSTAT = frozenset({"penalties", "dry", "temperature"})
"""Mirostat decides itself how many tokens are candidates."""
WEAKENING = frozenset({"penalties", "dry"})
"""Stages that change which token is the likeliest."""
