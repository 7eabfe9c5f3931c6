"""Times in requests: what Ollama's clients write, in seconds, and what is none."""

from __future__ import annotations

import math

import pytest

from edgellama.quant.errors import InvalidOptionError
from edgellama.server.fields.durations import MAX_SECONDS, seconds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *((0, 0.0), (2.5, 2.5), ("300", 300.0), ("30s", 30.0), ("1h30m", 5400.0), (" 5M ", 300.0)),
        *(("1.5h", 5400.0), ("250ms", 0.25), ("1d", 86400.0), ("+10s", 10.0), ("0", 0.0)),
        *((-1, math.inf), ("-1m", math.inf), ("-0.5", math.inf), ("inf", math.inf)),
        *((MAX_SECONDS, MAX_SECONDS), (MAX_SECONDS + 1, math.inf), (10**400, math.inf)),
        *((-(10**400), math.inf), ("1e400", math.inf), ("9" * 400 + "h", math.inf)),
    ],
)
def test_times(given: object, expected: float) -> None:
    """Numbers are seconds, texts have units; less than none, and what nobody lives to see, is for
    ever.
    """
    found = seconds(given)
    assert (found, type(found)) == (expected, float)


@pytest.mark.parametrize(
    "given", ["", "soon", "5m x", "m", "5 m", "1h30", "s5", "5mm", True, None, [5], math.nan, "nan"]
)
def test_what_is_no_time(given: object) -> None:
    """Anything else is refused with what was given."""
    with pytest.raises(InvalidOptionError, match=r"the time is .*; allowed: "):
        seconds(given)
