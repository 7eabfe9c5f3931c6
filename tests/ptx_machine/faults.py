"""What is wrong with a kernel, or with how it was launched."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class PtxFault(Exception):
    """A kernel did what a card forbids or leaves undefined: which instruction, which thread."""


class ThreadFault(Exception):
    """The same before anybody knows where; ``thread`` is its number among those that run."""

    def __init__(self, what: str, thread: int) -> None:
        self.what, self.thread = what, thread
        super().__init__(what)


def check(is_wrong: Array, threads: Array, what: str, numbers: Array | None = None) -> None:
    """Fault for the first thread that is wrong; ``numbers``, such as addresses, are told."""
    if is_wrong.any():
        first = int(np.flatnonzero(is_wrong)[0])
        told = "" if numbers is None else f" ({int(numbers[first]):#x})"
        raise ThreadFault(what + told, int(threads[first]))
