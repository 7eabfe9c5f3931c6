"""What a user may say about the choice of tokens, checked when it is said.

Every option stands here once: its default, its range, and the words that help prints. How it is
obeyed is known to stages and sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypedDict

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass

WHOLE_HISTORY = -1
DRY_BREAKERS = ("\n", ":", '"', "*")
SAMPLERS = (
    *("penalties", "dry", "top_n_sigma", "top_k", "typ_p"),
    *("top_p", "min_p", "xtc", "temperature"),
)
"""The stages between logits and a token, in their usual order, which is llama.cpp's."""
RULE = "rule"
"""What the rule of an option is called among its field's metadata."""
MOST = 1e9
"""Beyond it float32 logits could overflow; no text needs that."""
CLOSE_ENOUGH = 0.5
"""How like an option's name another must be to be taken for a slip."""


@dataclass(frozen=True)
class Range:
    """Values of a kind, which ones, and in words."""

    kind: type | tuple[type, ...]
    allowed: Callable[[Any], object]
    words: str
    takes_none: bool = False

    def accepts(self, value: object) -> bool:
        """Whether the value is of the kind and in the range."""
        if value is None:
            return self.takes_none
        # bool counts as a number in Python, but True is no temperature.
        is_misplaced = type(value) is bool and self.kind is not bool
        return not is_misplaced and isinstance(value, self.kind) and bool(self.allowed(value))


@dataclass(frozen=True)
class OptionRule:
    """What is allowed for an option, and how help explains it."""

    default: Any
    range: Range
    text: str
    is_common: bool


def _option(default: Any, range: Range, text: str, *, common: bool = False) -> Any:
    rule = OptionRule(default, range, text, common)
    is_hashable = range is not _BIAS
    return field(default=default, hash=None if is_hashable else False, metadata={RULE: rule})


def _are_breakers(value: Any) -> bool:
    return not isinstance(value, str) and all(isinstance(text, str) and text for text in value)


def _are_samplers(value: Any) -> bool:
    is_known = not isinstance(value, str) and all(name in SAMPLERS for name in value)
    return is_known and len(set(value)) == len(value)


def _is_bias(value: Any) -> bool:
    try:
        pairs = dict(value).items()
    except (TypeError, ValueError):
        return False
    return all(
        (_COUNT.accepts(token) or (isinstance(token, str) and token != ""))
        and (amount is False or _AMOUNT.accepts(amount))
        for token, amount in pairs
    )


_NUMBER = Range(Real, lambda v: -MOST <= v <= MOST, "a number from -1e9 to 1e9")
_FROM_0 = Range(Real, lambda v: 0 <= v <= MOST, "a number from 0 to 1e9")
_FROM_1 = Range(Real, lambda v: 1 <= v <= MOST, "a number from 1 to 1e9")
_FACTOR = Range(Real, lambda v: 1 / MOST <= v <= MOST, "a number from 1e-9 to 1e9")
_SHARE = Range(Real, lambda v: 0 <= v <= 1, "a number from 0 to 1")
_MASS = Range(Real, lambda v: 0 < v <= 1, "a number above 0 up to 1")
_COUNT = Range(Integral, lambda v: v >= 0, "a whole number from 0")
_COUNT_FROM_1 = Range(Integral, lambda v: v >= 1, "a whole number from 1")
_LAST_N = Range(Integral, lambda v: v >= WHOLE_HISTORY, "a whole number from -1 (-1: all)")
_SEED = Range(Integral, lambda v: v >= 0, "None or a whole number from 0", takes_none=True)
_MIROSTAT = Range(Integral, lambda v: v in (0, 1, 2), "0 (off), 1 or 2")
_TRUTH = Range(bool, lambda v: True, "True or False")
_AMOUNT = Range(Real, lambda v: -MOST <= v <= MOST or v == -math.inf, "a number")
_BREAKERS = Range(Sequence, _are_breakers, "a list of texts that are not empty")
_NAMES = Range(Sequence, _are_samplers, f"a list of {', '.join(SAMPLERS)}, each once")
_BIAS = Range(
    (Mapping, Sequence),
    _is_bias,
    "None, or numbers or False by token ids or texts",
    takes_none=True,
)


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

    temperature: float = _option(
        0.8, _FROM_0, "Randomness; 0 always takes the likeliest token.", common=True
    )
    top_k: int = _option(
        40, _COUNT, "Choose among this many likeliest tokens; 0 for all.", common=True
    )
    top_p: float = _option(
        0.95, _MASS, "Choose among the likeliest tokens of this total probability.", common=True
    )
    min_p: float = _option(
        0.05, _SHARE, "Drop tokens below this fraction of the likeliest one's.", common=True
    )
    repeat_penalty: float = _option(
        1.0, _FACTOR, "Weaken tokens that came lately; 1 for not at all.", common=True
    )
    repeat_last_n: int = _option(
        64, _LAST_N, "How many tokens are lately; -1 for all.", common=True
    )
    frequency_penalty: float = _option(
        0.0, _NUMBER, "Take this off a token for each time that it came lately."
    )
    presence_penalty: float = _option(0.0, _NUMBER, "Take this off a token that came lately.")
    dry_multiplier: float = _option(
        0.0, _FROM_0, "Weaken what would repeat a sequence (DRY); 0 for not.", common=True
    )
    dry_base: float = _option(
        1.75, _FROM_1, "How fast that grows with the sequence's length.", common=True
    )
    dry_allowed_length: int = _option(
        2, _COUNT_FROM_1, "Tokens that a sequence may repeat freely.", common=True
    )
    dry_last_n: int = _option(
        -1, _LAST_N, "Look for sequences in so many last tokens; -1 for all.", common=True
    )
    dry_breakers: Sequence[str] = _option(
        DRY_BREAKERS, _BREAKERS, "Sequences end at tokens with one of these texts."
    )
    penalize_prompt: bool = _option(
        True,
        _TRUTH,
        "Penalties and DRY count the prompt; False: in chats of it the earlier replies alone, "
        "else nothing.",
    )
    top_n_sigma: float = _option(
        0.0, _NUMBER, "Drop tokens so many deviations below the likeliest; 0 or less for none."
    )
    typical_p: float = _option(
        1.0, _MASS, "Choose among the most typical tokens of this total probability."
    )
    xtc_probability: float = _option(
        0.0, _SHARE, "How often the likeliest tokens but one are left out (XTC)."
    )
    xtc_threshold: float = _option(0.1, _SHARE, "Leave out tokens from this probability on.")
    dynatemp_range: float = _option(
        0.0, _FROM_0, "Let the temperature follow the entropy, so far down and up."
    )
    dynatemp_exponent: float = _option(1.0, _FROM_0, "How entropy becomes temperature.")
    mirostat: int = _option(
        0, _MIROSTAT, "Keep the surprise constant, by Mirostat 1 or 2, instead of filtering."
    )
    mirostat_tau: float = _option(5.0, _FROM_0, "The surprise to keep, in bits.")
    mirostat_eta: float = _option(0.1, _FROM_0, "How fast Mirostat learns.")
    samplers: Sequence[str] = _option(
        SAMPLERS, _NAMES, "The order of the stages; what is left out is off."
    )
    logit_bias: Mapping[int | str, float] | Sequence[tuple[int | str, float]] | None = _option(
        None, _BIAS, "Add a number to the logit of a token; False forbids it."
    )
    min_tokens: int = _option(0, _COUNT, "Do not end a text before it has so many tokens.")
    ignore_eos: bool = _option(False, _TRUTH, "Never choose a token that ends the text.")
    seed: int | None = _option(
        None, _SEED, "Same seed, same text; left out, every run differs.", common=True
    )

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            if not rule.range.accepts(value):
                raise InvalidOptionError(f"{name} is {value!r:.200}; allowed: {rule.range.words}")
        object.__setattr__(self, "dry_breakers", tuple(self.dry_breakers))
        object.__setattr__(self, "samplers", tuple(self.samplers))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}) or None)


RULES: Mapping[str, OptionRule] = MappingProxyType(
    {option.name: option.metadata[RULE] for option in fields(SamplingOptions)}
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
    known = (*parameters, *allowed)
    for name in names:
        if name not in allowed:
            same = ELSEWHERE.get(str(name), "")
            close = get_close_matches(str(name)[:80], known, n=1, cutoff=CLOSE_ENOUGH)
            meant = [same] if same in known else close
            guess = f"did you mean {meant[0]}? " if meant else ""
            raise InvalidOptionError(
                f"there is no option {shown(name)}; {guess}allowed: {', '.join(known)}"
            )


CHAT_SAMPLING: SamplingArguments = {
    "repeat_penalty": 1.1,
    "repeat_last_n": 256,
    "dry_multiplier": 0.8,
    "penalize_prompt": False,
}
"""For chats with a model whose file recommends nothing: even small ones do not loop.

What the user wrote is not counted: an answer must be able to quote it.
"""

PRESETS: Mapping[str, SamplingArguments] = MappingProxyType(
    {
        "llama.cpp": {},
        "chat": CHAT_SAMPLING,
        "ollama": {"top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.1},
        "openai": {"temperature": 1.0, "top_k": 0, "min_p": 0.0, "top_p": 1.0},
        "transformers": {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0},
    }
)
"""What other programs do if nothing is said, by name; what is left out is as in SamplingOptions.

llama.cpp's defaults are those of SamplingOptions, so they matter by name only in chats.
"""
_KEPT_BESIDE_PRESETS = frozenset({"logit_bias", "min_tokens", "ignore_eos", "seed"})


def merged_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, of which later layers win.

    A preset stands in for all that earlier layers say about the choice of tokens, except what
    concerns single tokens. InvalidOptionError for a name that is no preset.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.get("preset") is not None:
            dropped = RULES.keys() - _KEPT_BESIDE_PRESETS
            merged = {name: value for name, value in merged.items() if name not in dropped}
            merged.update(_preset(layer["preset"]))
        merged.update((name, value) for name, value in layer.items() if name != "preset")
    return merged


def _preset(name: object) -> SamplingArguments:
    if not isinstance(name, str) or name not in PRESETS:
        raise InvalidOptionError(f"preset is {name!r:.80}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
