"""Work that several threads do at the same time, up to the first error."""

from __future__ import annotations

import threading
from collections.abc import Callable


def at_once(num_threads: int, step: Callable[[int, int], bool]) -> int:
    """Call ``step(thread, number of its call)`` in every thread as long as it returns True.

    All threads stop at the first error, which is raised. How many calls returned True.
    """
    errors: list[BaseException] = []
    counts = [0] * num_threads

    def work(thread: int) -> None:
        try:
            while not errors and step(thread, counts[thread]):
                counts[thread] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts)
