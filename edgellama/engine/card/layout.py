"""Pages whose first layers lie on a graphics card, and the others in the computer's memory.

How a page's part looks is known to ``cuda.layouts`` and to ``engine.page_layout``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from edgellama.cuda.layouts import CardPageLayout
from edgellama.engine.kv_types import KVTypes
from edgellama.engine.page_layout import PageLayout
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class CardLayout:
    """``whole`` is how the CPU's pages of all layers lie; ``num_card_layers`` lie on the card."""

    whole: PageLayout
    num_card_layers: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_card_layers <= self.whole.num_layers:
            raise ValueError(f"{self.num_card_layers} of {self.whole.num_layers} layers")

    @property
    def types(self) -> KVTypes:
        """Of keys and values."""
        return self.whole.types

    @cached_property
    def card(self) -> CardPageLayout:
        """The part on the card. UnsupportedModelError for heads that it does not take."""
        whole = self.whole
        return CardPageLayout(
            whole.types.pair, self.num_card_layers, whole.num_heads, whole.head_size
        )

    @cached_property
    def host(self) -> PageLayout:
        """The part in the computer's memory, which may have no layers."""
        return replace(self.whole, num_layers=self.whole.num_layers - self.num_card_layers)

    @property
    def page_bytes(self) -> int:
        """A whole page, wherever its parts lie."""
        return self.card.page_bytes + self.host.page_bytes

    @property
    def layer_bytes(self) -> int:
        """Keys and values of one layer of a page on the card."""
        return self.card.layer_bytes

    @property
    def position_bytes(self) -> int:
        """Keys and values of one position in all layers, padding included."""
        return self.page_bytes // PAGE_POSITIONS

    def used_bytes(self, num_tokens: int, window: int | None = None) -> int:
        """What a sequence of ``num_tokens`` tokens takes in the computer's memory."""
        return self.host.used_bytes(num_tokens, window)
