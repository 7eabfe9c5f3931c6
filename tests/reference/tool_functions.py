"""Functions as users write them, which become tools: plain hints, three styles of docstrings."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal


class Unit(Enum):
    """A unit of temperature."""

    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


def weather(place: str, days: list[int], unit: Unit = Unit.CELSIUS) -> str:
    """Tell the weather of a place.

    It may be wrong.

    Args:
        place: City and country,
            such as Oslo, Norway.
        days: How many days from now, each.
        unit: The unit of temperatures.

    Returns:
        A sentence.
    """
    return f"{place}: {days} {unit.value}"


def convert(
    amount: float,
    kind: Literal["length", "mass"],
    factors: dict[str, float],
    exact: bool = False,
    pair: tuple[int, str] = (1, "a"),
) -> float:
    """Convert an amount.

    Args:
        amount: What to convert.
        kind: What it is.
        factors: By unit.
        exact: Without rounding.
        pair: Two things.
    """
    return amount


def nothing() -> None:
    """Do nothing."""


GOOGLE_FUNCTIONS = (weather, convert, nothing)


def numpy_style(place: str, limit: int | None = None) -> list[str]:
    """Find hotels.

    Parameters
    ----------
    place : str
        Where to look.
    limit : int, optional
        How many
        at most.

    Returns
    -------
    list of str
        Names.
    """
    return [place] * (limit or 1)


def sphinx_style(place: str, limit: int | None = None) -> Any:
    """Find hotels.

    :param place: Where to look.
    :param int limit: How many
        at most.
    :returns: Names.
    """
    return place
