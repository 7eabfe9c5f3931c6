"""Twins of calls, such as ``score_async`` of ``score``: methods with another method's arguments.

Names, types and defaults are written once, at the first method. The twin passes on what it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


def takes_what(
    call: Callable[Concatenate[Any, Given], object],
) -> Callable[[Callable[..., Result]], Callable[Concatenate[Any, Given], Result]]:
    """For a method that hands on all that it is given: its arguments are those of ``call``.

    Type checkers and ``help`` know them, and their defaults are the ones of ``call``.
    """

    def twin(method: Callable[..., Result]) -> Callable[Concatenate[Any, Given], Result]:
        method.__wrapped__ = call  # type: ignore[attr-defined]  # where signatures are read
        return method

    return twin
