"""How often a command's process searches for garbage: hardly ever before its model is loaded.

Imports make some sixty thousand objects and no garbage. Searching them takes a twentieth of the
time before the first token.
"""

from __future__ import annotations

import gc

ALLOCATIONS_OF_A_START = 100_000
"""More than there are before a first token."""
ALLOCATIONS_BETWEEN_SEARCHES = 10_000


def expect_start() -> None:
    """Search for nothing while modules are imported and a model is loaded."""
    gc.set_threshold(ALLOCATIONS_OF_A_START)


def end_start() -> None:
    """Search as usual from now on, but never through what is there already.

    Does nothing in a process whose start was not expected, such as a program that runs commands.
    """
    if gc.get_threshold()[0] == ALLOCATIONS_OF_A_START:
        gc.freeze()
        gc.set_threshold(ALLOCATIONS_BETWEEN_SEARCHES)
