"""Converts pages of keys and values from one layout to another.

Tiers differ in how many positions share a block, and in the order of a value row's nibbles. The
graphics card has chunks in place of blocks. The numbers are the same. ``attention.cache_numbers``
knows the blocks of each type, and ``card_numbers`` the card's page.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from edgellama.engine.pages.card_layout import CardPageLayout
from edgellama.engine.pages.card_numbers import Numbers, card_numbers
from edgellama.engine.pages.page_layout import PageLayout, memory_parts
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, round_up, scales_bytes
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.quant.array_types import Octets


def convert_page(
    source: Octets,
    layout: PageLayout | CardPageLayout,
    target: Octets,
    target_layout: PageLayout | CardPageLayout,
    num_positions: int,
) -> None:
    """Write the first positions of a page into zeroed memory of another layout.

    Both layouts are of the same types and sizes; they may also be the same.
    """
    sources, targets = _parts(source, layout), _parts(target, target_layout)
    for reader, writer in zip(sources, targets, strict=True):
        scales = reader.scales()
        if scales is not None:
            writer.write_scales(_beginning(scales, num_positions))
        writer.write_numbers(_beginning(reader.numbers(), num_positions))


def copy_page(
    source: Octets, layout: PageLayout, target: Octets, target_layout: PageLayout
) -> None:
    """The same for a whole page, byte for byte where the layouts are the same."""
    if layout == target_layout:
        target[:] = source
    else:
        convert_page(source, layout, target, target_layout, PAGE_POSITIONS)


class _Part(Protocol):
    """Keys or values of a page: a number for each element, one half for a group of them."""

    def scales(self) -> Numbers | None: ...

    def numbers(self) -> Numbers: ...

    def write_scales(self, scales: Numbers) -> None: ...

    def write_numbers(self, numbers: Numbers) -> None: ...


def _parts(memory: Octets, layout: PageLayout | CardPageLayout) -> tuple[_Part, _Part]:
    """Keys and values of a page."""
    if isinstance(layout, CardPageLayout):
        return card_numbers(memory, layout)
    keys, values = memory_parts(memory, layout)
    return _Keys(keys, layout.types.keys, layout), _Values(values, layout.types.values, layout)


class _Blocks:
    """Blocks of keys or of values, (layers, heads, blocks, bytes), as rows of positions."""

    def __init__(self, blocks: Octets, kind: str, layout: PageLayout) -> None:
        self._kind = kind
        self._lanes = layout.lanes
        self._head_size = layout.head_size
        self._positions = layout.block_positions
        self._shape = blocks.shape[:3]
        elements = CACHE_SCALE_ELEMENTS.get(kind, 0)
        scale_bytes = scales_bytes(layout.head_size, elements, self._positions)
        self._scales, self._numbers = blocks[..., :scale_bytes], blocks[..., scale_bytes:]
        self._dtype = np.dtype(f"u{max(CACHE_NUMBER_BITS[kind] // 8, 1)}")

    def scales(self) -> Numbers | None:
        """One half for a group of elements; None for types without."""
        return self._columns(self._scales, np.dtype("u2")) if self._scales.size else None

    def write_scales(self, scales: Numbers) -> None:
        """Take scales, as ``scales`` gives them."""
        self._scales[...] = self._from_columns(scales)

    def _columns(self, part: Octets, dtype: np.dtype[Any]) -> Numbers:
        """(layers, heads, positions, elements) of blocks with positions side by side."""
        numbers = part.view(dtype).reshape(*self._shape, -1, self._positions)
        return numbers.swapaxes(3, 4).reshape(*self._shape[:2], PAGE_POSITIONS, -1)

    def _from_columns(self, numbers: Numbers) -> Octets:
        rows = numbers.reshape(*self._shape, self._positions, -1).swapaxes(3, 4)
        return np.ascontiguousarray(rows).view(np.uint8).reshape(*self._shape, -1)


class _Keys(_Blocks):
    """A column for each element, or for each two."""

    def numbers(self) -> Numbers:
        """A number for each element."""
        columns = self._columns(self._numbers, self._dtype)
        if self._kind != "q4_0":
            return columns
        nibbles = np.stack([columns & 15, columns >> 4], axis=-1)
        return nibbles.reshape(*columns.shape[:3], -1)

    def write_numbers(self, numbers: Numbers) -> None:
        """Take numbers, as ``numbers`` gives them."""
        if self._kind == "q4_0":
            numbers = numbers[..., ::2] | numbers[..., 1::2] << 4
        self._numbers[...] = self._from_columns(numbers)


class _Values(_Blocks):
    """A row for each position, padded to whole panels."""

    def numbers(self) -> Numbers:
        """A number for each element, without padding."""
        rows = self._numbers.view(self._dtype).reshape(*self._shape, self._positions, -1)
        rows = rows.reshape(*self._shape[:2], PAGE_POSITIONS, -1)
        if self._kind == "q4_0":
            panels = rows.reshape(*rows.shape[:3], -1, 1, self._lanes)
            rows = np.concatenate([panels & 15, panels >> 4], axis=4)
            rows = rows.reshape(*rows.shape[:3], -1)
        return rows[..., : self._head_size]

    def write_numbers(self, numbers: Numbers) -> None:
        """Take numbers, as ``numbers`` gives them."""
        padding = round_up(self._head_size, self._positions) - self._head_size
        rows = np.pad(numbers, [(0, 0), (0, 0), (0, 0), (0, padding)])
        if self._kind == "q4_0":
            panels = rows.reshape(*rows.shape[:3], -1, 2, self._lanes)
            rows = np.bitwise_or(panels[..., 0, :], np.left_shift(panels[..., 1, :], 4))
        self._numbers[...] = np.ascontiguousarray(rows).view(np.uint8).reshape(*self._shape, -1)


def _beginning(numbers: Numbers, num_positions: int) -> Numbers:
    """A copy with zeros behind the first positions."""
    kept = np.zeros_like(numbers)
    kept[:, :, :num_positions] = numbers[:, :, :num_positions]
    return kept
