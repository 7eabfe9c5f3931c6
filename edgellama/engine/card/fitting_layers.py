"""How many of a model's layers find room for a sequence's keys and values on the graphics card.

``placement`` knows how much room there is, and moves the sequence.
"""

from __future__ import annotations

from edgellama.cuda.memory import taken_bytes
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.errors import CudaMemoryError

LAYER_SHARES = 8
"""Layers go to the card in so many shares: each number of them needs programs of its own."""
GROWTH, SHORTEST_GROWTH = 4, 4096
"""A sequence that comes to the card should find room to grow to so many times its length, or to
that of a short one."""


def num_fitting_layers(
    whole: PageLayout, num_tokens: int, context_length: int, room_bytes: int
) -> int:
    """The first so many layers of a sequence fit; CudaMemoryError if none does.

    ``whole``: its pages on the CPU, with all layers. It has ``num_tokens`` tokens now and never
    more than ``context_length``. ``room_bytes``: what pages may take of the card's memory.
    """
    expected = min(context_length, GROWTH * max(num_tokens, SHORTEST_GROWTH))
    num_pages = -(-expected // PAGE_POSITIONS)
    page_bytes = CardLayout(whole, whole.num_layers).card.page_bytes
    needed = num_pages * taken_bytes(page_bytes)
    if needed <= room_bytes:
        return whole.num_layers
    share = -(-whole.num_layers // LAYER_SHARES)
    found = int(whole.num_layers * room_bytes / needed) // share * share
    if found < 1:
        raise CudaMemoryError(
            f"keys and values of {expected} tokens need {needed / 1e9:.1f} GB of "
            f"the card's memory, {max(room_bytes, 0) / 1e9:.1f} GB are there"
        )
    return found
