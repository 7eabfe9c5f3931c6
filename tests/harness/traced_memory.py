"""How much memory something takes at its peak, as Python counts it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


class Peak:
    """What a block took at most; known at its end."""

    num_bytes = 0


@contextmanager
def traced_peak() -> Iterator[Peak]:
    """Count what Python allocates within the block."""
    peak = Peak()
    tracemalloc.start()
    try:
        yield peak
        peak.num_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
