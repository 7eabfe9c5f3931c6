"""Runs long work so that Ctrl-C can end it at any moment.

A step of the engine can take long, and Python runs no signal handler inside it. So a second thread
does the work, while the main thread waits and can be interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from edgellama.engine.scheduling.cancellation import CancelToken

Result = TypeVar("Result")
WAIT_SECONDS = 0.1


def run_cancellable(work: Callable[[CancelToken], Result]) -> Result:
    """What ``work`` returns or raises; Ctrl-C sets its token, see ``run_interruptible``."""
    from edgellama.engine.scheduling.cancellation import CancelToken

    token = CancelToken()
    return run_interruptible(lambda: work(token), token.cancel)


def run_interruptible(
    work: Callable[[], Result],
    cancel: Callable[[], None],
    *,
    idle: Callable[[], None] = lambda: None,
    patience_s: float | None = None,
) -> Result:
    """What ``work`` returns or raises.

    Ctrl-C calls ``cancel``, waits until the work has stopped, and goes on as KeyboardInterrupt;
    after ``patience_s`` it waits no longer for what may be waiting for its input. ``idle`` is
    called several times a second.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            # In slices, because on Windows no signal ends a long wait.
            worker.join(WAIT_SECONDS)
            idle()
    except BaseException:
        cancel()
        worker.join(patience_s)
        raise
    if errors:
        raise errors[0]
    return results[0]
