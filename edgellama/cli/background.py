"""Runs long work so that Ctrl-C reaches it at any moment.

A step of the engine can take long and no Python signal handler runs inside it, so the work is
done in a second thread while the main thread waits, interruptible.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from edgellama.engine.cancellation import CancelToken

Result = TypeVar("Result")
WAIT_SECONDS = 0.1


def run_cancellable(work: Callable[[CancelToken], Result]) -> Result:
    """What ``work`` returns or raises.

    Ctrl-C sets its token, waits until it has stopped, and goes on as KeyboardInterrupt.
    """
    from edgellama.engine.cancellation import CancelToken

    token = CancelToken()
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(token))
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            # In slices, because on Windows no signal ends a long wait.
            worker.join(WAIT_SECONDS)
    except BaseException:
        token.cancel()
        worker.join()
        raise
    if errors:
        raise errors[0]
    return results[0]
