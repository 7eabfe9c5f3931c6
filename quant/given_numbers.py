"""Whether what a caller gave is a number; True and False, numbers for Python, are none here."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_whole(value: Any, lowest: int) -> bool:
    """Whether it is a whole number from ``lowest`` on, of NumPy's too."""
    is_truth = isinstance(value, bool)
    return isinstance(value, Integral) and not is_truth and int(value) >= lowest


def is_number(value: Any) -> bool:
    """Whether it is a whole or a real number, perhaps no finite one."""
    is_truth = isinstance(value, bool)
    return isinstance(value, Real) and not is_truth
