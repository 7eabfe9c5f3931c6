"""Pages of keys and values of one tier, laid out for another.

Tiers differ in how many positions share a block, and in the order of a value row's nibbles; the
numbers are the same. How a block of each type looks is known to ``attention.cache_numbers``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.engine.kv_cache import memory_parts
from edgellama.engine.page_layout import PageLayout
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, round_up, scales_bytes
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS

Numbers: TypeAlias = npt.NDArray[Any]
"""Bits of numbers, (layers, heads, positions, elements), whatever they stand for."""
Octets: TypeAlias = npt.NDArray[np.uint8]


def convert_page(
    source: Octets,
    layout: PageLayout,
    target: Octets,
    target_layout: PageLayout,
    num_positions: int,
) -> None:
    """Write the first positions of a page into zeroed memory of another layout.

    Both layouts are of the same types and sizes; their lanes may be the same, too.
    """
    sources = memory_parts(source, layout)
    targets = memory_parts(target, target_layout)
    kinds = (layout.types.keys, layout.types.values)
    for kind, old, new, is_keys in zip(kinds, sources, targets, (True, False), strict=True):
        reader, writer = _Blocks(old, kind, layout), _Blocks(new, kind, target_layout)
        scales = reader.scales()
        if scales is not None:
            writer.write_scales(_beginning(scales, num_positions))
        if is_keys:
            writer.write_keys(_beginning(reader.keys(), num_positions))
        else:
            writer.write_values(_beginning(reader.values(), num_positions))


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

    def keys(self) -> Numbers:
        """A number for each element, or a byte for each two."""
        return self._columns(self._numbers, self._dtype)

    def values(self) -> Numbers:
        """A number for each element, without padding."""
        rows = self._numbers.view(self._dtype).reshape(*self._shape, self._positions, -1)
        rows = rows.reshape(*self._shape[:2], PAGE_POSITIONS, -1)
        if self._kind == "q4_0":
            panels = rows.reshape(*rows.shape[:3], -1, 1, self._lanes)
            rows = np.concatenate([panels & 15, panels >> 4], axis=4)
            rows = rows.reshape(*rows.shape[:3], -1)
        return rows[..., : self._head_size]

    def write_scales(self, scales: Numbers) -> None:
        """Take what ``scales`` of another layout gave."""
        self._scales[...] = self._from_columns(scales)

    def write_keys(self, keys: Numbers) -> None:
        """Take what ``keys`` of another layout gave."""
        self._numbers[...] = self._from_columns(keys)

    def write_values(self, values: Numbers) -> None:
        """Take what ``values`` of another layout gave."""
        padding = round_up(self._head_size, self._positions) - self._head_size
        rows = np.pad(values, [(0, 0), (0, 0), (0, 0), (0, padding)])
        if self._kind == "q4_0":
            panels = rows.reshape(*rows.shape[:3], -1, 2, self._lanes)
            rows = np.bitwise_or(panels[..., 0, :], np.left_shift(panels[..., 1, :], 4))
        self._numbers[...] = np.ascontiguousarray(rows).view(np.uint8).reshape(*self._shape, -1)

    def _columns(self, part: Octets, dtype: np.dtype[Any]) -> Numbers:
        """(layers, heads, positions, elements) of blocks with positions side by side."""
        numbers = part.view(dtype).reshape(*self._shape, -1, self._positions)
        return numbers.swapaxes(3, 4).reshape(*self._shape[:2], PAGE_POSITIONS, -1)

    def _from_columns(self, numbers: Numbers) -> Octets:
        rows = numbers.reshape(*self._shape, self._positions, -1).swapaxes(3, 4)
        return np.ascontiguousarray(rows).view(np.uint8).reshape(*self._shape, -1)


def _beginning(numbers: Numbers, num_positions: int) -> Numbers:
    """A copy with zeros behind the first positions."""
    kept = np.zeros_like(numbers)
    kept[:, :, :num_positions] = numbers[:, :, :num_positions]
    return kept
