"""A thread that lets an engine release its memory when nobody has computed for a while.

``machinery`` knows what is released, and makes it again for the next step.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from edgellama.quant.error_text import shown
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.quant.given_values import is_number

if TYPE_CHECKING:
    from edgellama.engine.scheduling.scheduler import Scheduler

LOOKS = 4
"""How often the watch looks within the time that an engine may be idle."""


class Unloadable(Protocol):
    """An engine whose memory can be given back between two steps."""

    scheduler: Scheduler

    @property
    def num_jobs(self) -> int:
        """A number that grows with every step."""

    @property
    def is_loaded(self) -> bool:
        """Whether there is memory to give back."""

    def unload(self) -> None:
        """Give it back; the next step loads it again."""


class IdleWatch:
    """Unloads an engine after ``seconds`` without a step, None for never; the next step loads it.

    It costs steps nothing: the watch looks now and then whether their number has grown.
    """

    def __init__(self, engine: Unloadable) -> None:
        self._engine = weakref.ref(engine)
        self._seconds: float | None = None
        self._ended: threading.Event | None = None
        """Ends the thread; None where there is none."""

    @property
    def seconds(self) -> float | None:
        """How long the engine may be idle."""
        return self._seconds

    @seconds.setter
    def seconds(self, seconds: float | None) -> None:
        check_idle_seconds(seconds)
        self.close()
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Watch, if that is wanted and no thread does it."""
        if self._seconds is None or self._ended is not None:
            return
        self._ended = threading.Event()
        wait = float(min(self._seconds, threading.TIMEOUT_MAX))
        threading.Thread(
            target=_watch,
            args=(self._engine, wait, self._ended),
            name="edgellama-idle",
            daemon=True,
        ).start()

    def close(self) -> None:
        """Watch no more, until ``begin``."""
        if (ended := self._ended) is not None:
            ended.set()
            self._ended = None

    def lose_thread(self) -> None:
        """In a forked process, where there is none, let ``begin`` start another."""
        self._ended = None


def check_idle_seconds(seconds: float | None) -> None:
    """InvalidOptionError for what is no time."""
    if seconds is not None and not (is_number(seconds) and seconds > 0):
        raise InvalidOptionError(
            f"idle_seconds is {shown(seconds)}; allowed: None or seconds above 0"
        )


def _watch(reference: weakref.ref[Unloadable], seconds: float, ended: threading.Event) -> None:
    seen, since = -1, time.monotonic()
    while not ended.wait(seconds / LOOKS):
        engine = reference()
        if engine is None:
            return
        if engine.num_jobs != seen or not engine.scheduler.is_idle:
            seen, since = engine.num_jobs, time.monotonic()
        elif engine.is_loaded and time.monotonic() - since >= seconds:
            with contextlib.suppress(EdgellamaError):
                engine.unload()
        del engine
