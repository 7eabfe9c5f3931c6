"""Runs calls that recurse deeply, on a thread of their own with a stack that is large enough.

llguidance follows references and rules by recursion, and a stack that overflows ends the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

USUAL_PARTS = 60
"""So many schemas or rules inside each other fit the smallest usual stack."""
MAX_PARTS = 30_000
BYTES_PER_PART = 16 << 10
"""Measured are 9 KB for a property that refers to another schema."""
_MEGABYTE = 1 << 20


def call_deeply(call: Callable[[], Any], num_parts: int) -> Any:
    """What ``call`` returns or raises, which may have ``num_parts`` calls inside each other."""
    if num_parts <= USUAL_PARTS:
        return call()
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    wanted = num_parts * BYTES_PER_PART + 2 * _MEGABYTE
    usual = threading.stack_size(wanted // _MEGABYTE * _MEGABYTE)
    try:
        thread.start()
    finally:
        threading.stack_size(usual)
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
