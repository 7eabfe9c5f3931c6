"""What a user may say about the choice of tokens, checked when it is said.

How it is obeyed is known to sampler and to what that composes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypedDict

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError

WHOLE_HISTORY = -1
DRY_BREAKERS = ("\n", ":", '"', "*")
CLOSE_ENOUGH = 0.5
"""How like an option's name another must be to be taken for a slip."""


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose among the likely tokens; InvalidOptionError for values outside the ranges.

    ``temperature`` 0 always takes the likeliest token. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0,
    ``repeat_penalty`` 1 and ``dry_multiplier`` 0 switch their filter off. The repetition penalty
    looks at the last ``repeat_last_n`` tokens (-1: all). The same ``seed`` gives the same
    choices for the same logits.

    DRY weakens a token that would carry on a sequence which stands in the last ``dry_last_n``
    tokens (-1: all) already: by ``dry_multiplier * dry_base ** (length - dry_allowed_length)``
    once ``length`` tokens are repeated. Sequences end at tokens that contain one of the
    ``dry_breakers``.

    Ranges: ``temperature`` from 0, ``top_k`` from 0, ``top_p`` above 0 up to 1, ``min_p`` from 0
    to 1, ``repeat_penalty`` above 0, ``repeat_last_n`` and ``dry_last_n`` from -1,
    ``dry_multiplier`` from 0, ``dry_base`` from 1, ``dry_allowed_length`` from 1, ``seed`` from
    0 or None for another text every time.

    Example:
        >>> from edgellama import SamplingOptions
        >>> SamplingOptions(temperature=0.2, seed=1).top_k
        40
        >>> SamplingOptions(top_p=3)
        Traceback (most recent call last):
        edgellama.quant.errors.InvalidOptionError: top_p is 3; allowed: a number above 0 up to 1
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = WHOLE_HISTORY
    dry_breakers: Sequence[str] = DRY_BREAKERS
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, kind, allowed, words in _ALLOWED:
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            # bool counts as a number in Python, but True is no temperature.
            if isinstance(value, bool) or not isinstance(value, kind) or not allowed(value):
                raise InvalidOptionError(f"{name} is {value!r}; allowed: {words}")
        object.__setattr__(self, "dry_breakers", tuple(self.dry_breakers))


class SamplingArguments(TypedDict, total=False):
    """SamplingOptions as keyword arguments; what is left out has its default there."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    repeat_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_last_n: int
    dry_breakers: Sequence[str]
    seed: int | None


def check_option_names(names: Collection[str], allowed: Sequence[str]) -> None:
    """InvalidOptionError for the first name that is not allowed; it says which one is nearest."""
    for name in names:
        if name not in allowed:
            close = get_close_matches(str(name)[:80], allowed, n=1, cutoff=CLOSE_ENOUGH)
            guess = f"did you mean {close[0]}? " if close else ""
            raise InvalidOptionError(
                f"there is no option {shown(name)}; {guess}allowed: {', '.join(allowed)}"
            )


CHAT_SAMPLING: SamplingArguments = {
    "repeat_penalty": 1.1,
    "repeat_last_n": 256,
    "dry_multiplier": 0.8,
}
"""For chats with a model whose file recommends nothing: even small ones do not loop."""


def _are_breakers(value: Any) -> bool:
    return not isinstance(value, str) and all(isinstance(text, str) and text for text in value)


_LAST_N = "a whole number from -1 (-1: all)"
_ALLOWED: tuple[tuple[str, type, Callable[[Any], bool], str], ...] = (
    ("temperature", Real, lambda v: 0 <= v < math.inf, "a number from 0"),
    ("top_k", Integral, lambda v: v >= 0, "a whole number from 0 (0: all tokens)"),
    ("top_p", Real, lambda v: 0 < v <= 1, "a number above 0 up to 1"),
    ("min_p", Real, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    ("repeat_penalty", Real, lambda v: 0 < v < math.inf, "a number above 0"),
    ("repeat_last_n", Integral, lambda v: v >= WHOLE_HISTORY, _LAST_N),
    ("dry_multiplier", Real, lambda v: 0 <= v < math.inf, "a number from 0 (0: off)"),
    ("dry_base", Real, lambda v: 1 <= v < math.inf, "a number from 1"),
    ("dry_allowed_length", Integral, lambda v: v >= 1, "a whole number from 1"),
    ("dry_last_n", Integral, lambda v: v >= WHOLE_HISTORY, _LAST_N),
    ("dry_breakers", Sequence, _are_breakers, "a list of texts that are not empty"),
    ("seed", Integral, lambda v: v >= 0, "None or a whole number from 0"),
)
