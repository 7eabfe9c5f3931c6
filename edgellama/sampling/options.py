"""What a user may say about the choice of tokens, checked when it is said.

Every option stands here once: its default, its range, and the words that help prints. How it is
obeyed is known to stages and sampler.
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
    """How to choose among the likely tokens; InvalidOptionError for values outside the ranges.

    docs/sampling.md has defaults and sources. ``temperature`` 0 takes the likeliest token after
    the penalties, whatever the filters are. ``logit_bias`` names tokens by id or by a text that is
    one token, spaces included.

    Arguments:
        temperature: Randomness; 0 always takes the likeliest token. Allowed: a number from
            0 to 1e9.
        top_k: Choose among this many likeliest tokens; 0 for all. Allowed: a whole number
            from 0.
        top_p: Choose among the likeliest tokens of this total probability. Allowed: a
            number above 0 up to 1.
        min_p: Drop tokens below this fraction of the likeliest one's. Allowed: a number
            from 0 to 1.
        repeat_penalty: Weaken tokens that came lately; 1 for not at all. Allowed: a number
            from 1e-9 to 1e9.
        repeat_last_n: How many tokens are lately; -1 for all. Allowed: a whole number from
            -1 (-1: all).
        frequency_penalty: Take this off a token for each time that it came lately. Allowed:
            a number from -1e9 to 1e9.
        presence_penalty: Take this off a token that came lately. Allowed: a number from
            -1e9 to 1e9.
        dry_multiplier: Weaken what would repeat a sequence (DRY); 0 for not. Allowed: a
            number from 0 to 1e9.
        dry_base: How fast that grows with the sequence's length. Allowed: a number from 1
            to 1e9.
        dry_allowed_length: Tokens that a sequence may repeat freely. Allowed: a whole
            number from 1.
        dry_last_n: Look for sequences in so many last tokens; -1 for all. Allowed: a whole
            number from -1 (-1: all).
        dry_breakers: Sequences end at tokens with one of these texts. Allowed: texts.
        penalize_prompt: Penalties and DRY count the prompt; False: in chats of it the earlier
            replies alone, else nothing. Allowed: True or False.
        top_n_sigma: Drop tokens so many deviations below the likeliest; 0 or less for none.
            Allowed: a number from -1e9 to 1e9.
        typical_p: Choose among the most typical tokens of this total probability. Allowed:
            a number above 0 up to 1.
        xtc_probability: How often the likeliest tokens but one are left out (XTC). Allowed:
            a number from 0 to 1.
        xtc_threshold: Leave out tokens from this probability on. Allowed: a number from 0
            to 1.
        dynatemp_range: Let the temperature follow the entropy, so far down and up. Allowed:
            a number from 0 to 1e9.
        dynatemp_exponent: How entropy becomes temperature. Allowed: a number from 0 to 1e9.
        mirostat: Keep the surprise constant, by Mirostat 1 or 2, instead of filtering.
            Allowed: 0 (off), 1 or 2.
        mirostat_tau: The surprise to keep, in bits. Allowed: a number from 0 to 1e9.
        mirostat_eta: How fast Mirostat learns. Allowed: a number from 0 to 1e9.
        samplers: The order of the stages; what is left out is off. Allowed: names of
            SAMPLERS, each once.
        logit_bias: Add a number to the logit of a token; False forbids it. Allowed: None,
            or numbers or False by token ids or texts.
        min_tokens: Do not end a text before it has so many tokens. Allowed: a whole number
            from 0.
        ignore_eos: Never choose a token that ends the text. Allowed: True or False.
        seed: Same seed, same text; left out, every run differs. Allowed: None or a whole
            number from 0.

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
        40, ranges.COUNT, "Choose among this many likeliest tokens; 0 for all.", common=True
    )
    top_p: float = option(
        0.95,
        ranges.MASS,
        "Choose among the likeliest tokens of this total probability.",
        common=True,
    )
    min_p: float = option(
        0.05, ranges.SHARE, "Drop tokens below this fraction of the likeliest one's.", common=True
    )
    repeat_penalty: float = option(
        1.0, ranges.FACTOR, "Weaken tokens that came lately; 1 for not at all.", common=True
    )
    repeat_last_n: int = option(
        64, ranges.LAST_N, "How many tokens are lately; -1 for all.", common=True
    )
    frequency_penalty: float = option(
        0.0, ranges.NUMBER, "Take this off a token for each time that it came lately."
    )
    presence_penalty: float = option(0.0, ranges.NUMBER, "Take this off a token that came lately.")
    dry_multiplier: float = option(
        0.0, ranges.FROM_0, "Weaken what would repeat a sequence (DRY); 0 for not.", common=True
    )
    dry_base: float = option(
        1.75, ranges.FROM_1, "How fast that grows with the sequence's length.", common=True
    )
    dry_allowed_length: int = option(
        2, ranges.COUNT_FROM_1, "Tokens that a sequence may repeat freely.", common=True
    )
    dry_last_n: int = option(
        -1, ranges.LAST_N, "Look for sequences in so many last tokens; -1 for all.", common=True
    )
    dry_breakers: Sequence[str] = option(
        ranges.DRY_BREAKERS, ranges.BREAKERS, "Sequences end at tokens with one of these texts."
    )
    penalize_prompt: bool = option(
        True,
        ranges.TRUTH,
        "Penalties and DRY count the prompt; False: in chats of it the earlier replies alone, "
        "else nothing.",
    )
    top_n_sigma: float = option(
        0.0,
        ranges.NUMBER,
        "Drop tokens so many deviations below the likeliest; 0 or less for none.",
    )
    typical_p: float = option(
        1.0, ranges.MASS, "Choose among the most typical tokens of this total probability."
    )
    xtc_probability: float = option(
        0.0, ranges.SHARE, "How often the likeliest tokens but one are left out (XTC)."
    )
    xtc_threshold: float = option(0.1, ranges.SHARE, "Leave out tokens from this probability on.")
    dynatemp_range: float = option(
        0.0, ranges.FROM_0, "Let the temperature follow the entropy, so far down and up."
    )
    dynatemp_exponent: float = option(1.0, ranges.FROM_0, "How entropy becomes temperature.")
    mirostat: int = option(
        0, ranges.MIROSTAT, "Keep the surprise constant, by Mirostat 1 or 2, instead of filtering."
    )
    mirostat_tau: float = option(5.0, ranges.FROM_0, "The surprise to keep, in bits.")
    mirostat_eta: float = option(0.1, ranges.FROM_0, "How fast Mirostat learns.")
    samplers: Sequence[str] = option(
        ranges.SAMPLERS, ranges.NAMES, "The order of the stages; what is left out is off."
    )
    logit_bias: Mapping[int | str, float] | Sequence[tuple[int | str, float]] | None = option(
        None, ranges.BIAS, "Add a number to the logit of a token; False forbids it."
    )
    min_tokens: int = option(0, ranges.COUNT, "Do not end a text before it has so many tokens.")
    ignore_eos: bool = option(False, ranges.TRUTH, "Never choose a token that ends the text.")
    seed: int | None = option(
        None, ranges.SEED, "Same seed, same text; left out, every run differs.", common=True
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
