"""Durations as people and Ollama's clients write them: 30s, 5m, 1h30m, or seconds as a number.

A negative one means for ever, as in Ollama. The callers know what a duration is for.
"""

from __future__ import annotations

import math
import re

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
MAX_SECONDS = 1e9


def seconds(value: object) -> float:
    """Seconds; negative ones are for ever. InvalidOptionError for anything else.

    Example:
        >>> from edgellama.server.fields.durations import seconds
        >>> seconds("1h30m"), seconds(2.5), seconds("-1m")
        (5400.0, 2.5, inf)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _limited(value, value)
    if isinstance(value, str):
        text = value.strip().lower()
        sign = -1.0 if text.startswith("-") else 1.0
        text = text.lstrip("+-")
        try:
            return _limited(sign * float(text), value)
        except ValueError:
            parts = _PART.findall(text)
            if parts and "".join(number + unit for number, unit in parts) == text:
                total = sum(float(number) * _UNITS[unit] for number, unit in parts)
                return _limited(sign * total, value)
    raise InvalidOptionError(
        f"the time is {shown(value)}; allowed: such as 30s, 5m, 1h30m, or seconds"
    )


def keep_alive_seconds(given: float | str | None) -> float | None:
    """How long a model is to stay loaded; None if that is not said."""
    return None if given is None else seconds(given)


def _limited(number: float, value: object) -> float:
    # Before any conversion: a whole number may be larger than all floats.
    if number < 0 or number > MAX_SECONDS:
        return math.inf
    if math.isnan(number):
        raise InvalidOptionError(f"the time is {shown(value)}; allowed: a number of seconds")
    return float(number)
