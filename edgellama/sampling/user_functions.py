"""Functions of the caller that change logits or choose a token, and checks of what they return.

Their own errors are passed on. ``sampler`` calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_arrays import given_array, given_index
from edgellama.sampling.filters import Logits

Processor: TypeAlias = Callable[[Logits, Sequence[int]], npt.ArrayLike | None]
"""From f32 logits (vocab_size,), which it may change, and the tokens so far: others, or None."""
TokenChoice: TypeAlias = Callable[[Logits, Sequence[int]], int]
"""From f32 logits (vocab_size,), minus infinity where forbidden, and the tokens so far: a token."""


def processed(logits: Logits, tokens: Sequence[int], processors: Sequence[Processor]) -> Logits:
    """What processors make of a copy of ``logits``, each of what the one before gave.

    InvalidOptionError for numbers of another shape, and for NaN and plus infinity.
    """
    made: Logits = np.array(logits, np.float32)
    for processor in processors:
        given = processor(made, tokens)
        if given is not None:
            made = _as_logits(given, processor, logits.shape)
        largest = float(made.max())
        if math.isnan(largest) or largest == math.inf:
            raise InvalidOptionError(
                f"the processor {_name(processor)} gave a logit of {largest}; allowed: numbers and "
                "minus infinity"
            )
    return made


def chosen_token(logits: Logits, tokens: Sequence[int], choose: TokenChoice) -> int:
    """The token that ``choose`` gives; InvalidOptionError for one that cannot come."""
    token: object = choose(logits.copy(), tokens)
    number = given_index(token)
    if number is None or not 0 <= number < len(logits):
        raise InvalidOptionError(
            f"the sampler {_name(choose)} gave {token!r:.80}; allowed: a token from 0 to "
            f"{len(logits) - 1}"
        )
    if logits[number] == -np.inf:
        raise InvalidOptionError(
            f"the sampler {_name(choose)} gave {number}; allowed: tokens whose logit is not minus "
            "infinity"
        )
    return number


def _as_logits(given: npt.ArrayLike, processor: Processor, shape: tuple[int, ...]) -> Logits:
    try:
        array = given_array(given)
        made: Logits = np.array(given if array is None else array, np.float32)
    except (TypeError, ValueError):
        raise InvalidOptionError(
            f"the processor {_name(processor)} gave {type(given).__name__}; allowed: None or "
            f"{shape[0]} numbers"
        ) from None
    if made.shape != shape:
        raise InvalidOptionError(
            f"the processor {_name(processor)} gave an array of shape {made.shape}; allowed: "
            f"{shape}, or None"
        )
    return made


def _name(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
