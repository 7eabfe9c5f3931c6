"""Weights' pages mapped ahead, by a thread of its own, while Python makes a first step ready.

A step reads all weights, and half of a small model's first one would go to mapping their pages.
A byte of each page is read for it, as a step would: that keeps nobody else from mapping memory.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from edgellama.engine.weights import Matrix, ModelWeights

PIECE_BYTES = 1 << 26
"""What is read at a time, in some milliseconds: more than a thread waits for Python's lock."""
MAX_GAP_BYTES = 1 << 16
"""Between two matrices of a piece, such as a norm: the system maps as much beside a page."""

PageBytes = npt.NDArray[np.uint8]


class PagesAhead:
    """Has the pages mapped that every step reads, until all are or ``stop`` is called."""

    def __init__(self, weights: ModelWeights, layers: range) -> None:
        """Begin with ``layers`` and, if the last is there, the output matrix."""
        self._is_wanted = True
        matrices = _read_by_each_step(weights, layers)
        self._thread = threading.Thread(
            target=self._read, args=(matrices,), name="edgellama-pages", daemon=True
        )
        self._thread.start()

    def stop(self, *, is_awaited: bool = False) -> None:
        """Begin no further piece; ``is_awaited``: return when no weights are held any more."""
        self._is_wanted = False
        if is_awaited:
            self._thread.join()

    def _read(self, matrices: Sequence[Matrix]) -> None:
        for piece in pieces(matrices):
            if not self._is_wanted:
                break
            np.add.reduce(piece, dtype=np.uint8)  # Python's lock is free meanwhile.


def pieces(matrices: Iterable[Matrix]) -> Iterator[PageBytes]:
    """A byte of each page that the matrices lie in, in the order of their addresses."""
    run: list[Matrix] = []
    for matrix in sorted(matrices, key=lambda matrix: matrix.address):
        if run and not 0 <= matrix.address - _end(run[-1]) <= MAX_GAP_BYTES:
            yield from _cut(run)
            run = []
        run.append(matrix)
    if run:
        yield from _cut(run)


def _cut(run: Sequence[Matrix]) -> Iterator[PageBytes]:
    """Of matrices that lie one behind the other in a mapping."""
    first, num_bytes = run[0].data, _end(run[-1]) - run[0].address
    # The last byte as well: its page may begin behind the last whole step.
    yield run[-1].data[-1:]
    num_pages = -(-num_bytes // mmap.PAGESIZE)
    pages = as_strided(first, (num_pages,), (mmap.PAGESIZE,), writeable=False)
    step = PIECE_BYTES // mmap.PAGESIZE
    yield from (pages[start : start + step] for start in range(0, num_pages, step))


def _end(matrix: Matrix) -> int:
    return matrix.address + matrix.data.nbytes


def _read_by_each_step(weights: ModelWeights, layers: range) -> list[Matrix]:
    """Of a table of embeddings a step reads single rows, unless it is the output matrix as well."""
    of_layers = (vars(weights.layers[number]).values() for number in layers)
    matrices = [value for values in of_layers for value in values if isinstance(value, Matrix)]
    is_last = len(layers) > 0 and layers[-1] == len(weights.layers) - 1
    return [*matrices, *([weights.output] if is_last else [])]
