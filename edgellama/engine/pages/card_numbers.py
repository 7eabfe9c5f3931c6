"""The numbers of a page on the card, as rows of positions; pages are copied through them.

``page_lanes`` knows the CPU's pages, and converts one kind into the other.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.cuda.layouts import CHUNK_BYTES, ZERO_NIBBLE, num_groups, scales_at
from edgellama.engine.pages.card_layout import CardPageLayout
from edgellama.engine.pages.page_layout import head_parts
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.quant.array_types import Octets

Numbers: TypeAlias = npt.NDArray[Any]
"""Bits of numbers, (layers, heads, positions, elements), whatever they stand for."""


def card_numbers(memory: Octets, layout: CardPageLayout) -> tuple[CardNumbers, CardNumbers]:
    """Keys and values of a page's memory."""
    keys, values = head_parts(memory, layout)
    key_kind, value_kind = layout.kinds
    return (
        CardNumbers(keys, key_kind, layout.head_size, True),
        CardNumbers(values, value_kind, layout.head_size, False),
    )


class CardNumbers:
    """Keys or values of all heads, (layers, heads, bytes of a head)."""

    def __init__(self, heads: Octets, kind: str, head_size: int, is_keys: bool) -> None:
        self._kind, self._head_size, self._is_keys = kind, head_size, is_keys
        self._bits = CACHE_NUMBER_BITS[kind]
        self._groups = num_groups(head_size, CACHE_SCALE_ELEMENTS.get(kind, 0))
        self._shape = heads.shape[:2]
        start = scales_at(head_size, self._bits)
        self._numbers, self._scales = heads[..., :start], heads[..., start:]

    def scales(self) -> Numbers | None:
        """One half for a group of elements; None for types without."""
        if not self._groups:
            return None
        scales = self._scales.view("u2")
        if self._is_keys:
            return scales.reshape(*self._shape, self._groups, PAGE_POSITIONS).swapaxes(2, 3)
        return scales.reshape(*self._shape, PAGE_POSITIONS, self._groups)

    def numbers(self) -> Numbers:
        """A number for each element, without padding."""
        if self._is_keys:
            chunks = self._numbers.reshape(*self._shape, -1, PAGE_POSITIONS, CHUNK_BYTES)
            chunks = chunks.swapaxes(2, 3)
        else:
            chunks = self._numbers.reshape(*self._shape, PAGE_POSITIONS, -1, CHUNK_BYTES)
        if self._kind == "q4_0":
            chunks = np.concatenate([chunks & 15, chunks >> 4], axis=-1)
        rows = np.ascontiguousarray(chunks).reshape(*self._shape, PAGE_POSITIONS, -1)
        return rows.view(f"u{max(self._bits // 8, 1)}")[..., : self._head_size]

    def write_scales(self, scales: Numbers) -> None:
        """Take scales, as ``scales`` gives them."""
        rows = scales.swapaxes(2, 3) if self._is_keys else scales
        self._scales[...] = np.ascontiguousarray(rows).view(np.uint8).reshape(*self._shape, -1)

    def write_numbers(self, numbers: Numbers) -> None:
        """Take numbers, as ``numbers`` gives them; the padding becomes the number zero."""
        per_chunk = 8 * CHUNK_BYTES // self._bits
        padding = [(0, 0), (0, 0), (0, 0), (0, -self._head_size % per_chunk)]
        zero = ZERO_NIBBLE if self._kind == "q4_0" else 0
        rows = np.pad(numbers, padding, constant_values=zero)
        if self._kind == "q4_0":
            pairs = rows.reshape(*self._shape, PAGE_POSITIONS, -1, 2, CHUNK_BYTES)
            rows = pairs[..., 0, :] | pairs[..., 1, :] << 4
        chunks = np.ascontiguousarray(rows).view(np.uint8)
        if self._is_keys:
            chunks = chunks.reshape(*self._shape, PAGE_POSITIONS, -1, CHUNK_BYTES).swapaxes(2, 3)
        self._numbers[...] = chunks.reshape(*self._shape, -1)
