"""The values that a sampling option may have: as checks, and in words for errors and help.

``options`` has the options themselves, with their defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from numbers import Integral, Real
from typing import Any

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


def option(default: Any, range: Range, text: str, *, common: bool = False) -> Any:
    """A field with a rule; ``common``: it has an option of its own on the command line."""
    rule = OptionRule(default, range, text, common)
    # A mapping of biases has no hash.
    return field(default=default, hash=False if range is BIAS else None, metadata={RULE: rule})


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
        (COUNT.accepts(token) or (isinstance(token, str) and token != ""))
        and (amount is False or AMOUNT.accepts(amount))
        for token, amount in pairs
    )


NUMBER = Range(Real, lambda v: -MOST <= v <= MOST, "a number from -1e9 to 1e9")
FROM_0 = Range(Real, lambda v: 0 <= v <= MOST, "a number from 0 to 1e9")
FROM_1 = Range(Real, lambda v: 1 <= v <= MOST, "a number from 1 to 1e9")
FACTOR = Range(Real, lambda v: 1 / MOST <= v <= MOST, "a number from 1e-9 to 1e9")
SHARE = Range(Real, lambda v: 0 <= v <= 1, "a number from 0 to 1")
MASS = Range(Real, lambda v: 0 < v <= 1, "a number above 0 up to 1")
COUNT = Range(Integral, lambda v: v >= 0, "a whole number from 0")
COUNT_FROM_1 = Range(Integral, lambda v: v >= 1, "a whole number from 1")
LAST_N = Range(Integral, lambda v: v >= WHOLE_HISTORY, "a whole number from -1 (-1: all)")
SEED = Range(Integral, lambda v: v >= 0, "None or a whole number from 0", takes_none=True)
MIROSTAT = Range(Integral, lambda v: v in (0, 1, 2), "0 (off), 1 or 2")
TRUTH = Range(bool, lambda v: True, "True or False")
AMOUNT = Range(Real, lambda v: -MOST <= v <= MOST or v == -math.inf, "a number")
BREAKERS = Range(Sequence, _are_breakers, "a list of texts that are not empty")
NAMES = Range(Sequence, _are_samplers, f"a list of {', '.join(SAMPLERS)}, each once")
BIAS = Range(
    (Mapping, Sequence),
    _is_bias,
    "None, or numbers or False by token ids or texts",
    takes_none=True,
)
