"""The layout of pages on a graphics card, and of pages whose first layers lie there.

``cuda.layouts`` knows how a head's numbers lie, and ``page_layout`` the layers that stay on the
CPU.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from edgellama.cuda.layouts import MAX_HEAD_SIZE, head_bytes
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout, PageOffsets
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class CardPageLayout(PageOffsets):
    """Bytes of a page's parts on the card. ``kinds`` are the types of keys and of values.

    UnsupportedModelError for heads that kernels of the card do not take.
    """

    kinds: tuple[str, str]
    num_layers: int
    num_heads: int
    head_size: int

    def __post_init__(self) -> None:
        if self.head_size % 2 or not 2 <= self.head_size <= MAX_HEAD_SIZE:
            raise UnsupportedModelError(
                f"head size {self.head_size} on the graphics card; "
                f"supported: even sizes up to {MAX_HEAD_SIZE}"
            )

    @property
    def key_head_bytes(self) -> int:
        """See ``PageOffsets``."""
        return self._head_bytes(self.kinds[0])

    @property
    def value_head_bytes(self) -> int:
        """See ``PageOffsets``."""
        return self._head_bytes(self.kinds[1])

    def _head_bytes(self, kind: str) -> int:
        return head_bytes(
            self.head_size, CACHE_NUMBER_BITS[kind], CACHE_SCALE_ELEMENTS.get(kind, 0)
        )


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
        """The types of keys and values."""
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
