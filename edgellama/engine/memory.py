"""Memory that costs only what is touched: reserved at once, paid for page by page."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import InvalidOptionError


def reserve(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes whose pages exist from their first use on; freed with the array.

    Raises InvalidOptionError when the system refuses so much.
    """
    if num_bytes == 0:
        return np.empty(0, np.uint8)
    try:
        if sys.platform == "win32":
            return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
        mapping = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError):
        raise InvalidOptionError(
            f"no memory for {num_bytes / 1e9:.1f} GB of keys, values or activations; "
            "choose a shorter context"
        ) from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # The parts in use are many and small; a huge page for each would cost gigabytes.
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(mapping, np.uint8)


def reserve_floats(num_rows: int, num_columns: int) -> npt.NDArray[np.float32]:
    """Reserved memory as f32 rows."""
    return reserve(num_rows * num_columns * 4).view(np.float32).reshape(num_rows, num_columns)


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple
