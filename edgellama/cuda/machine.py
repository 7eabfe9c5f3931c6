"""What this machine has of NVIDIA's, in lines for people: ``edgellama doctor`` prints them.

Whether a model uses a card is not decided here but by ``edgellama.engine.card``.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgellama.cuda.cards import Card, list_cards
from edgellama.cuda.context import Context
from edgellama.cuda.driver import NO_CARD, Driver, version_text
from edgellama.quant.errors import CudaError

GB = 1e9


def describe_cards() -> Iterator[tuple[str, str]]:
    """A label and a line for the driver and for each card, with why one cannot be used.

    Raises nothing: what the driver refuses is a line.
    """
    try:
        driver = Driver.load()
        cards = list_cards(driver)
    except CudaError as error:
        yield "card", f"none: {error}"
        return
    yield "driver", f"CUDA {version_text(driver.version)}"
    if not cards:
        yield "card", f"none: {NO_CARD}"
    for card in cards:
        yield f"card {card.index}", ", ".join(_facts(card))
        yield "usable", _usable(driver, card)


def _facts(card: Card) -> Iterator[str]:
    major, minor = card.capability
    yield card.name
    yield f"{card.total_bytes / GB:.1f} GB"
    if card.bytes_per_second:
        yield f"{card.bytes_per_second / GB:.0f} GB/s"
    yield f"compute capability {major}.{minor}"
    yield f"{card.num_multiprocessors} multiprocessors"
    if card.is_integrated:
        yield "shares the computer's memory"
    if card.has_time_limit:
        yield "drives a display (kernels of seconds are ended)"


def _usable(driver: Driver, card: Card) -> str:
    if card.obstacle:
        return f"no: {card.obstacle}"
    try:
        context = Context(driver, card)
        try:
            free_bytes, _ = context.memory_bytes()
        finally:
            context.close()
    except CudaError as error:
        return f"no: {error}"
    return f"yes, {free_bytes / GB:.1f} GB free"
