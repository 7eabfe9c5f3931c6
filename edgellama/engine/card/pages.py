"""Makes pages on a graphics card, and copies pages to it, on it and back.

The pool and the card's memory limit their number.
"""

from __future__ import annotations

import numpy as np

from edgellama.cuda.memory import CardMemory
from edgellama.cuda.streams import Stream
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.page_lanes import convert_page
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.pages.page_pool import Page
from edgellama.engine.weights.memory import reserve
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.array_types import Octets


class CardPages:
    """Pages of one layout on one card."""

    def __init__(self, layout: CardLayout, memory: CardMemory, stream: Stream) -> None:
        self.layout, self.host_layout = layout, layout.whole
        self._memory, self._stream = memory, stream

    def new(self, *, is_for_all: bool = False) -> Page:
        """See ``PageMaker``; CudaMemoryError if the card has no room."""
        card = self._memory.allocate(self.layout.card.page_bytes)
        # Positions that a step does not store are multiplied by weights of zero.
        self._stream.fill(card.address, 0, card.num_bytes)
        return Page(reserve(self.layout.host.page_bytes, is_for_all=is_for_all), card)

    def copy(self, source: Page, target: Page, num_positions: int) -> None:
        """See ``PageMaker``."""
        assert source.card is not None and target.card is not None
        num_bytes = self.layout.card.page_bytes
        self._stream.copy_on_card(target.card.address, source.card.address, num_bytes)
        self._stream.synchronize()
        target.memory[:] = source.memory

    def take(self, memory: Octets, layout: PageLayout, target: Page) -> None:
        """Write what a page of the CPU's, in its layout, holds into an empty one."""
        assert target.card is not None
        of_card, of_host = self._shares(memory, layout)
        converted = np.zeros(self.layout.card.page_bytes, np.uint8)
        upper = _first_layers(layout, self.layout.num_card_layers)
        convert_page(of_card, upper, converted, self.layout.card, PAGE_POSITIONS)
        address = int(converted.ctypes.data)
        self._stream.copy_to_card(target.card.address, address, converted.nbytes)
        self._stream.synchronize()
        target.memory[:] = of_host

    def host_memory(self, page: Page) -> Octets:
        """See ``PageMaker``; CudaError if the card does not answer."""
        assert page.card is not None
        layout = self.layout
        found = np.zeros(layout.card.page_bytes, np.uint8)
        self._stream.copy_from_card(int(found.ctypes.data), page.card.address, found.nbytes)
        self._stream.synchronize()
        memory = np.zeros(layout.whole.page_bytes, np.uint8)
        of_card, of_host = self._shares(memory, layout.whole)
        upper = _first_layers(layout.whole, layout.num_card_layers)
        convert_page(found, layout.card, of_card, upper, PAGE_POSITIONS)
        of_host[:] = page.memory
        return memory

    def _shares(self, memory: Octets, layout: PageLayout) -> tuple[Octets, Octets]:
        """What of a page of the CPU's belongs on the card, and what does not."""
        end = self.layout.num_card_layers * layout.layer_bytes
        return memory[:end], memory[end:]


def _first_layers(layout: PageLayout, num_layers: int) -> PageLayout:
    return PageLayout(layout.types, num_layers, layout.num_heads, layout.head_size, layout.lanes)
