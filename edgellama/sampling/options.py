"""The options for choosing tokens, checked when they are given.

Every option is defined here once: its default, its range, and its help text. Stages and the sampler
obey it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import TypedDict

from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import check_names
from edgellama.quant.records import dataclass
from edgellama.sampling import option_ranges as ranges
from edgellama.sampling.option_ranges import option


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose the next token; InvalidOptionError for values outside the ranges.

    docs/sampling.md lists defaults and sources. ``temperature`` 0 takes the likeliest token after
    the penalties, whatever the filters are. ``logit_bias`` names tokens by id, or by a text that is
    exactly one token, spaces included.

    Arguments:
        temperature: Randomness; 0 always takes the likeliest token. Allowed: a number from
            0 to 1e9.
        top_k: Choose among this many of the likeliest tokens; 0 for all. Allowed: a whole
            number from 0.
        top_p: Choose among the likeliest tokens that together have this probability.
            Allowed: a number above 0 up to 1.
        min_p: Drop tokens less probable than this fraction of the likeliest one. Allowed: a
            number from 0 to 1.
        repeat_penalty: Make recent tokens less likely; 1 turns this off. Allowed: a number
            from 1e-9 to 1e9.
        repeat_last_n: How many of the last tokens count as recent; -1 for all. Allowed: a
            whole number from -1 (-1: all).
        frequency_penalty: Subtract this from a token's logit for each time it came
            recently. Allowed: a number from -1e9 to 1e9.
        presence_penalty: Subtract this from the logit of each token that came recently.
            Allowed: a number from -1e9 to 1e9.
        dry_multiplier: Make tokens that repeat a sequence less likely (DRY); 0 turns this
            off. Allowed: a number from 0 to 1e9.
        dry_base: How fast the DRY penalty grows with the sequence's length. Allowed: a
            number from 1 to 1e9.
        dry_allowed_length: How many tokens of a sequence may repeat freely (DRY). Allowed:
            a whole number from 1.
        dry_last_n: Look for repeated sequences in this many last tokens; -1 for all.
            Allowed: a whole number from -1 (-1: all).
        dry_breakers: Repeated sequences end at tokens that contain one of these texts.
            Allowed: texts.
        penalize_prompt: Let penalties and DRY count the prompt, too. False counts only what
            the model wrote: the text and, in chats, its earlier replies. Allowed: True or
            False.
        top_n_sigma: Drop tokens this many standard deviations below the likeliest; 0 or
            less turns this off. Allowed: a number from -1e9 to 1e9.
        typical_p: Choose among the most typical tokens that together have this probability.
            Allowed: a number above 0 up to 1.
        xtc_probability: How often to leave out all tokens above xtc_threshold but one
            (XTC). Allowed: a number from 0 to 1.
        xtc_threshold: The probability from which XTC may leave tokens out. Allowed: a
            number from 0 to 1.
        dynatemp_range: How far the temperature may follow the entropy, down and up.
            Allowed: a number from 0 to 1e9.
        dynatemp_exponent: The exponent by which entropy becomes temperature. Allowed: a
            number from 0 to 1e9.
        mirostat: Keep the surprise constant with Mirostat 1 or 2, instead of filtering.
            Allowed: 0 (off), 1 or 2.
        mirostat_tau: The surprise to keep, in bits. Allowed: a number from 0 to 1e9.
        mirostat_eta: How fast Mirostat learns. Allowed: a number from 0 to 1e9.
        samplers: The order of the stages; a stage that is not named is off. Allowed: names
            of SAMPLERS, each once.
        logit_bias: Add these numbers to the logits of tokens; False forbids a token.
            Allowed: None, or numbers or False by token ids or texts.
        min_tokens: Do not end a text before it has this many tokens. Allowed: a whole
            number from 0.
        ignore_eos: Never choose a token that ends the text. Allowed: True or False.
        seed: The same seed gives the same text; without one, every run differs. Allowed:
            None or a whole number from 0.

    Example:
        >>> from edgellama import SamplingOptions
        >>> SamplingOptions(temperature=0.2, seed=1).top_k
        40
        >>> SamplingOptions(top_p=3)
        Traceback (most recent call last):
        edgellama.quant.errors.InvalidOptionError: top_p is 3; allowed: a number above 0 up to 1
    """

    temperature: float = option(
        0.8, ranges.FROM_0, "Randomness; 0 always takes the likeliest token.", common=True
    )
    top_k: int = option(
        40, ranges.COUNT, "Choose among this many of the likeliest tokens; 0 for all.", common=True
    )
    top_p: float = option(
        0.95,
        ranges.MASS,
        "Choose among the likeliest tokens that together have this probability.",
        common=True,
    )
    min_p: float = option(
        0.05,
        ranges.SHARE,
        "Drop tokens less probable than this fraction of the likeliest one.",
        common=True,
    )
    repeat_penalty: float = option(
        1.0, ranges.FACTOR, "Make recent tokens less likely; 1 turns this off.", common=True
    )
    repeat_last_n: int = option(
        64, ranges.LAST_N, "How many of the last tokens count as recent; -1 for all.", common=True
    )
    frequency_penalty: float = option(
        0.0, ranges.NUMBER, "Subtract this from a token's logit for each time it came recently."
    )
    presence_penalty: float = option(
        0.0, ranges.NUMBER, "Subtract this from the logit of each token that came recently."
    )
    dry_multiplier: float = option(
        0.0,
        ranges.FROM_0,
        "Make tokens that repeat a sequence less likely (DRY); 0 turns this off.",
        common=True,
    )
    dry_base: float = option(
        1.75,
        ranges.FROM_1,
        "How fast the DRY penalty grows with the sequence's length.",
        common=True,
    )
    dry_allowed_length: int = option(
        2,
        ranges.COUNT_FROM_1,
        "How many tokens of a sequence may repeat freely (DRY).",
        common=True,
    )
    dry_last_n: int = option(
        -1,
        ranges.LAST_N,
        "Look for repeated sequences in this many last tokens; -1 for all.",
        common=True,
    )
    dry_breakers: Sequence[str] = option(
        ranges.DRY_BREAKERS,
        ranges.BREAKERS,
        "Repeated sequences end at tokens that contain one of these texts.",
    )
    penalize_prompt: bool = option(
        True,
        ranges.TRUTH,
        "Let penalties and DRY count the prompt, too. False counts only what the model wrote: "
        "the text and, in chats, its earlier replies.",
    )
    top_n_sigma: float = option(
        0.0,
        ranges.NUMBER,
        "Drop tokens this many standard deviations below the likeliest; 0 or less turns this off.",
    )
    typical_p: float = option(
        1.0,
        ranges.MASS,
        "Choose among the most typical tokens that together have this probability.",
    )
    xtc_probability: float = option(
        0.0, ranges.SHARE, "How often to leave out all tokens above xtc_threshold but one (XTC)."
    )
    xtc_threshold: float = option(
        0.1, ranges.SHARE, "The probability from which XTC may leave tokens out."
    )
    dynatemp_range: float = option(
        0.0, ranges.FROM_0, "How far the temperature may follow the entropy, down and up."
    )
    dynatemp_exponent: float = option(
        1.0, ranges.FROM_0, "The exponent by which entropy becomes temperature."
    )
    mirostat: int = option(
        0, ranges.MIROSTAT, "Keep the surprise constant with Mirostat 1 or 2, instead of filtering."
    )
    mirostat_tau: float = option(5.0, ranges.FROM_0, "The surprise to keep, in bits.")
    mirostat_eta: float = option(0.1, ranges.FROM_0, "How fast Mirostat learns.")
    samplers: Sequence[str] = option(
        ranges.SAMPLERS, ranges.NAMES, "The order of the stages; a stage that is not named is off."
    )
    logit_bias: Mapping[int | str, float] | Sequence[tuple[int | str, float]] | None = option(
        None, ranges.BIAS, "Add these numbers to the logits of tokens; False forbids a token."
    )
    min_tokens: int = option(0, ranges.COUNT, "Do not end a text before it has this many tokens.")
    ignore_eos: bool = option(False, ranges.TRUTH, "Never choose a token that ends the text.")
    seed: int | None = option(
        None,
        ranges.SEED,
        "The same seed gives the same text; without one, every run differs.",
        common=True,
    )

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            if not rule.range.accepts(value):
                raise InvalidOptionError(f"{name} is {value!r:.200}; allowed: {rule.range.words}")
        object.__setattr__(self, "dry_breakers", tuple(self.dry_breakers))
        object.__setattr__(self, "samplers", tuple(self.samplers))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}) or None)


RULES: Mapping[str, ranges.OptionRule] = MappingProxyType(
    {option.name: option.metadata[ranges.RULE] for option in fields(SamplingOptions)}
)
"""What is allowed, by option, in the order of the options."""


class SamplingArguments(TypedDict, total=False):
    """SamplingOptions as keyword arguments; what is left out has its default there.

    ``preset`` is a name of PRESETS, whose values then are the defaults.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_last_n: int
    dry_breakers: Sequence[str]
    penalize_prompt: bool
    top_n_sigma: float
    typical_p: float
    xtc_probability: float
    xtc_threshold: float
    dynatemp_range: float
    dynatemp_exponent: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    samplers: Sequence[str]
    logit_bias: Mapping[int | str, float] | Sequence[tuple[int | str, float]] | None
    min_tokens: int
    ignore_eos: bool
    seed: int | None
    preset: str


ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "max_new_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "n_predict": "max_tokens",
        "num_predict": "max_tokens",
        "repetition_penalty": "repeat_penalty",
        "stop_strings": "stop",
        "response_format": "schema",
        "system_prompt": "system",
        "temp": "temperature",
    }
)
"""What options are called in other programs, where the nearest name would be another one."""


def check_option_names(
    names: Collection[str], allowed: Sequence[str], parameters: Sequence[str] = ()
) -> None:
    """InvalidOptionError for the first name that is not allowed; it says which one is meant.

    ``parameters``: what the call takes beside its options, which may be meant, too.
    """
    check_names(names, allowed, parameters, ELSEWHERE)
