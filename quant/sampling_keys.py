"""The sampling that a model file recommends: llama.cpp's keys under ``general.sampling.``.

The converter writes them, and chats use them. ``edgellama.sampling`` chooses tokens by them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from edgellama.quant.records import dataclass

PREFIX = "general.sampling."
LARGEST = (1 << 31) - 1
MOST = 1e9
"""Of temperature and penalty, as sampling takes them."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplingKey:
    """One recommendation: what follows ``general.sampling.``, and which values make sense."""

    key: str
    is_whole: bool
    allowed: Callable[[float], bool]
    words: str

    def checked(self, value: object) -> float | int | None:
        """The value as a number of the key's kind; None for one that makes no sense."""
        if isinstance(value, (bool, np.bool_)) or not isinstance(
            value, (int, float, np.integer, np.floating)
        ):
            return None
        if not -LARGEST <= value <= LARGEST:
            return None
        number = int(value) if self.is_whole else _shortest(float(value))
        return number if self.allowed(number) and (number == value or not self.is_whole) else None


SAMPLING_KEYS: Mapping[str, SamplingKey] = MappingProxyType(
    {
        "temperature": SamplingKey(
            "temp", False, lambda v: 0 <= v <= MOST, "a number from 0 to 1e9"
        ),
        "top_k": SamplingKey("top_k", True, lambda v: v >= 0, "a whole number from 0"),
        "top_p": SamplingKey("top_p", False, lambda v: 0 < v <= 1, "a number above 0 up to 1"),
        "min_p": SamplingKey("min_p", False, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
        "repeat_penalty": SamplingKey(
            "penalty_repeat", False, lambda v: 1 / MOST <= v <= MOST, "a number from 1e-9 to 1e9"
        ),
        "repeat_last_n": SamplingKey(
            "penalty_last_n", True, lambda v: v >= -1, "a whole number from -1"
        ),
    }
)
"""By the name of the sampling option; values are int32 or float32."""


def recommended_sampling(metadata: Mapping[str, object]) -> dict[str, float | int]:
    """The options that a file recommends, by name; what makes no sense is passed over."""
    found: dict[str, float | int] = {}
    for option, key in SAMPLING_KEYS.items():
        value = metadata.get(PREFIX + key.key)
        if value is None:
            continue
        number = key.checked(value)
        if number is None:
            _log.warning("%s%s is %.40r, which is ignored: %s", PREFIX, key.key, value, key.words)
        else:
            found[option] = number
    return found


def _shortest(number: float) -> float:
    """The number as a person would write it for this float32."""
    return float(str(np.float32(number)))
