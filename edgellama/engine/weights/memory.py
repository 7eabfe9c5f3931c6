"""Memory that is reserved at once, but costs only the pages that are touched.

Free memory of the heap goes back to the system here, too. Its owners know what lies in memory.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import InvalidOptionError

HUGE_PAGE_BYTES = 1 << 21


def reserve(num_bytes: int, *, is_for_all: bool = False) -> npt.NDArray[np.uint8]:
    """Zeroed bytes whose pages exist from their first use on; freed with the array.

    ``is_for_all``: every byte will be used soon; whole huge pages of it are then one page each.
    Raises InvalidOptionError when the system refuses so much.
    """
    if num_bytes == 0:
        return np.empty(0, np.uint8)
    has_huge_pages = hasattr(mmap, "MADV_HUGEPAGE")
    num_huge_bytes = num_bytes - num_bytes % HUGE_PAGE_BYTES if is_for_all and has_huge_pages else 0
    num_reserved = num_bytes + HUGE_PAGE_BYTES if num_huge_bytes else num_bytes
    try:
        if sys.platform == "win32":
            return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
        mapping = mmap.mmap(-1, num_reserved, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError):
        raise InvalidOptionError(
            f"no memory for {num_bytes / 1e6:,.0f} MB more of keys, values or activations; "
            "choose a shorter context, or smaller types of keys and values"
        ) from None
    memory = np.frombuffer(mapping, np.uint8)
    if has_huge_pages:
        # The parts in use are many and small; a huge page for each would cost gigabytes.
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
    if num_huge_bytes:
        start = -memory.ctypes.data % HUGE_PAGE_BYTES
        mapping.madvise(mmap.MADV_HUGEPAGE, start, num_huge_bytes)
        return memory[start : start + num_bytes]
    return memory


def reserve_shared(*groups: Sequence[int]) -> list[list[npt.NDArray[np.uint8]]]:
    """Reserve arrays in groups that share memory: what one writes, the others of its group lose.

    Each array of a group begins on a page of its own.
    """
    memory = reserve(max(map(paged, groups)))
    return [[*_cut(memory, sizes)] for sizes in groups]


def paged(sizes: Sequence[int]) -> int:
    """Bytes of arrays that each begin on a page of their own."""
    return sum(round_up(size, mmap.PAGESIZE) for size in sizes)


def _cut(memory: npt.NDArray[np.uint8], sizes: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
    start = 0
    for size in sizes:
        yield memory[start : start + size]
        start += round_up(size, mmap.PAGESIZE)


def reserve_floats(num_rows: int, num_columns: int) -> npt.NDArray[np.float32]:
    """Reserved memory as f32 rows."""
    return reserve(num_rows * num_columns * 4).view(np.float32).reshape(num_rows, num_columns)


def return_free_heap() -> None:
    """Give pages back to the system that the C library keeps of what was freed, where it can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Not in every C library.
        if trim is not None:
            trim(0)


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple
