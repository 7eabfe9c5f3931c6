"""Where keys and values lie in a page: 128 positions of one sequence, all layers and heads.

The formulas for a head's blocks come from the kernels (``layouts``). ``page_pool`` owns pages, and
``kv_cache`` makes a sequence of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.kernels_cpu.layouts import (
    PAGE_POSITIONS,
    PANEL_VECTORS,
    first_seen,
    key_block_bytes,
    round_up,
    value_block_bytes,
)
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.quant.array_types import Octets
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass

SYSTEM_PAGE_BYTES = 4096
"""What memory is handed out in, on most systems."""


class PageOffsets(ABC):
    """Where layers lie in a page: one after the other, in each all heads' keys, then all values."""

    num_layers: int
    num_heads: int

    @property
    @abstractmethod
    def key_head_bytes(self) -> int:
        """The bytes of one head's keys."""

    @property
    @abstractmethod
    def value_head_bytes(self) -> int:
        """The bytes of one head's values."""

    @property
    def layer_bytes(self) -> int:
        """Keys and values of one layer."""
        return self.num_heads * (self.key_head_bytes + self.value_head_bytes)

    @property
    def page_bytes(self) -> int:
        """The bytes of a whole page."""
        return self.num_layers * self.layer_bytes

    @property
    def position_bytes(self) -> int:
        """Keys and values of one position in all layers, padding included."""
        return self.page_bytes // PAGE_POSITIONS

    def key_offset(self, layer: int) -> int:
        """Where a layer's keys begin in a page."""
        return layer * self.layer_bytes

    def value_offset(self, layer: int) -> int:
        """Where a layer's values begin in a page."""
        return layer * self.layer_bytes + self.num_heads * self.key_head_bytes


@dataclass(frozen=True)
class PageLayout(PageOffsets):
    """Bytes of a page's parts in the computer's memory.

    ``lanes``: f32 numbers of a vector of the tier, of which a block of positions has two.
    """

    types: KVTypes
    num_layers: int
    num_heads: int
    head_size: int
    lanes: int

    def __post_init__(self) -> None:
        if self.head_size % 2:
            raise UnsupportedModelError(f"head size {self.head_size}; supported: even sizes")

    @classmethod
    def of(
        cls, config: ModelConfig, types: KVTypes, lanes: int, num_layers: int | None = None
    ) -> PageLayout:
        """The layout for a model, or for some of its layers, on a tier.

        UnsupportedModelError for heads of an odd size.
        """
        layers = config.block_count if num_layers is None else num_layers
        return cls(types, layers, config.head_count_kv, config.head_size, lanes)

    def with_lanes(self, lanes: int) -> PageLayout:
        """The same numbers on a tier of other lanes."""
        return PageLayout(self.types, self.num_layers, self.num_heads, self.head_size, lanes)

    @property
    def block_positions(self) -> int:
        """Positions of a block."""
        return PANEL_VECTORS * self.lanes

    @cached_property
    def key_block_bytes(self) -> int:
        """One head's keys at the positions of a block."""
        kind = self.types.keys
        elements = CACHE_SCALE_ELEMENTS.get(kind, 0)
        return key_block_bytes(
            self.head_size, CACHE_NUMBER_BITS[kind], elements, self.block_positions
        )

    @cached_property
    def value_block_bytes(self) -> int:
        """One head's values at the positions of a block."""
        kind = self.types.values
        elements = CACHE_SCALE_ELEMENTS.get(kind, 0)
        return value_block_bytes(
            self.head_size, CACHE_NUMBER_BITS[kind], elements, self.block_positions
        )

    @cached_property
    def key_head_bytes(self) -> int:
        """See ``PageOffsets``; all blocks of them."""
        return PAGE_POSITIONS // self.block_positions * self.key_block_bytes

    @cached_property
    def value_head_bytes(self) -> int:
        """See ``PageOffsets``; all blocks of them."""
        return PAGE_POSITIONS // self.block_positions * self.value_block_bytes

    def used_bytes(self, num_tokens: int, window: int | None = None) -> int:
        """What a sequence of ``num_tokens`` tokens touches of the pages that it still sees.

        Whole blocks of every head, and whole pages of the system's memory.
        """
        given_back = 0
        if window is not None:
            given_back = first_seen(num_tokens, window) // PAGE_POSITIONS * PAGE_POSITIONS
        total = 0
        for block_bytes in (self.key_block_bytes, self.value_block_bytes):
            blocks = -(-SYSTEM_PAGE_BYTES // block_bytes)
            granule = min(blocks * self.block_positions, PAGE_POSITIONS)
            positions = round_up(num_tokens, granule) - given_back
            total += positions * block_bytes // self.block_positions
        return total * self.num_layers * self.num_heads


def memory_parts(memory: Octets, layout: PageLayout) -> tuple[Octets, Octets]:
    """Keys and values of a page: (layers, heads, blocks, bytes)."""
    keys, values = head_parts(memory, layout)
    blocks = (layout.num_layers, layout.num_heads, -1)
    return (
        keys.reshape(*blocks, layout.key_block_bytes),
        values.reshape(*blocks, layout.value_block_bytes),
    )


def head_parts(memory: Octets, layout: PageOffsets) -> tuple[Octets, Octets]:
    """Keys and values of a page: (layers, heads, bytes of a head)."""
    layers = memory.reshape(layout.num_layers, layout.layer_bytes)
    key_bytes = layout.num_heads * layout.key_head_bytes
    heads = (layout.num_layers, layout.num_heads, -1)
    return layers[:, :key_bytes].reshape(heads), layers[:, key_bytes:].reshape(heads)
