"""Cuts work into runs of rows, which threads do, and returns the results in order.

A chunk's size depends on its tensor alone, never on the number of threads, so checksums and sums of
floats are the same for any number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from edgellama.convert.planning.conversion_plan import PlannedTensor

CHUNK_ELEMENTS = 1 << 18
"""1 MB of float32: it stays in a core's cache from reading to writing."""
MAX_WAITING_PER_THREAD = 4

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Chunk:
    """Rows ``first`` to before ``last`` of a tensor; ``is_last`` if it is its last chunk."""

    tensor: PlannedTensor
    first: int
    last: int

    @property
    def is_last(self) -> bool:
        """Whether the tensor ends here."""
        return self.last == self.tensor.num_rows


def chunks_of(tensors: Sequence[PlannedTensor]) -> Iterator[Chunk]:
    """Every row of every tensor, in order."""
    for tensor in tensors:
        num_rows = max(1, CHUNK_ELEMENTS // tensor.num_columns)
        for first in range(0, tensor.num_rows, num_rows):
            yield Chunk(tensor, first, min(first + num_rows, tensor.num_rows))


def run_in_order(
    work: Callable[[_Item], _Result], items: Iterable[_Item], num_threads: int
) -> Generator[tuple[_Item, _Result], None, None]:
    """Each item with ``work(item)``, in the order of the items; few are under way at once.

    The first error ends it. Close the iterator to wait for what is under way.
    """
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="convert")
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= MAX_WAITING_PER_THREAD * num_threads:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
