"""Where the keys and values of a tile lie: the page of a position, and a head's place in that page.

The kernels for many tokens copy from these addresses. What a tile is, is left to
``prefill_tiles``.
"""

from __future__ import annotations

from typing import Any

from edgellama.cuda.kernels.memory import read_global_i64
from edgellama.cuda.layouts import CHUNK_BYTES, num_chunks, num_groups, scales_at
from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES, PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS
from edgellama.kernels_cpu.simd.device import device


@device
def page_in(pages, position):
    """The address of the page that holds a position, of a table of pages."""
    return read_global_i64(pages + position // PAGE_POSITIONS * 8)


def places(kind: str, *, is_keys: bool) -> Any:
    """Device function ``(head, head_size, position)`` of where a tile of a head lies in its page.

    It gives the places of the first chunk and the first scale, the bytes from one position to the
    next, and how many chunks each has.
    """
    bits, scale_elements = CACHE_NUMBER_BITS[kind], CACHE_SCALE_ELEMENTS.get(kind, 0)

    @device
    def of_keys(head, head_size, position):
        place, chunks = position % PAGE_POSITIONS, num_chunks(head_size, bits)
        scales = head + scales_at(head_size, bits) + place * CACHE_SCALE_BYTES
        return head + place * CHUNK_BYTES, scales, CHUNK_BYTES, chunks

    @device
    def of_values(head, head_size, position):
        place, chunks = position % PAGE_POSITIONS, num_chunks(head_size, bits)
        groups = num_groups(head_size, scale_elements)
        scales = head + scales_at(head_size, bits) + place * groups * CACHE_SCALE_BYTES
        return head + place * chunks * CHUNK_BYTES, scales, chunks * CHUNK_BYTES, chunks

    return of_keys if is_keys else of_values
