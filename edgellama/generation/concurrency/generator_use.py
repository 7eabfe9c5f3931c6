"""Generators that several threads may reach, though only one may be inside at a time.

Python raises a ValueError in a second thread, which becomes our own error here, or "not now". There
is no lock, since Ctrl-C could leave it taken.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from edgellama.quant.errors import EdgellamaError

Item = TypeVar("Item")
GENERATOR_IN_USE = "generator already executing"


def next_of(generator: Generator[Item, None, None], what: str) -> Item:
    """The next item of a generator.

    EdgellamaError, with ``what`` it is, while another thread is inside.
    """
    try:
        return next(generator)
    except ValueError as error:
        if not is_in_use(error):
            raise
        raise EdgellamaError(f"this {what} is being iterated by another thread") from None


def is_closed_now(generator: Generator[Item, None, None]) -> bool:
    """Close it; False, and it stays as it is, where another thread is inside."""
    try:
        generator.close()
    except ValueError as error:
        if not is_in_use(error):
            raise
        return False
    return True


def is_in_use(error: BaseException) -> bool:
    """Whether an error is Python's about a generator that another thread is inside."""
    return isinstance(error, ValueError) and str(error) == GENERATOR_IN_USE
