"""Turns: lets a number of texts run at once, in the order in which they came.

A turn follows from the list of texts that are there. A text that is dropped leaves the list, so no
place is lost wherever Ctrl-C ends one.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from edgellama.generation.concurrency.caller import caller
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.given_values import whole_or_none

if TYPE_CHECKING:
    from edgellama.engine.scheduling.cancellation import CancelToken

POLL_S = 0.02
"""How often a waiting thread looks for a cancellation, which does not wake it."""
OWN_WAIT_S = 1.0
"""How long a thread that waits for texts of its own may take to hand them to another thread."""


class WaitingLine:
    """The texts that run, and behind them those that wait, first come, first served."""

    def __init__(self, max_running: int | None = None) -> None:
        """``max_running`` may run at once; None is no limit."""
        self._turns: list[weakref.ref[Turn]] = []
        self._max_running: int | None = None
        self.max_running = max_running

    @property
    def max_running(self) -> int | None:
        """How many may run at once; a change holds at once, but ends no running text."""
        return self._max_running

    @max_running.setter
    def max_running(self, most: int | None) -> None:
        self._max_running = whole_or_none("max_concurrent", most, 1)
        self._ring()

    def position(self, turn: Turn) -> int:
        """How many have to end before it is this one's turn."""
        if self._max_running is None:
            return 0
        there = [reference() for reference in self._turns.copy()]
        index = there.index(turn) if turn in there else 0
        return max(0, index - self._max_running + 1)

    def waits_for_itself(self, turn: Turn) -> bool:
        """Whether all that run, for which ``turn`` must wait, have its own caller."""
        if self.position(turn) == 0:
            return False
        there = [reference() for reference in self._turns.copy()]
        running = [each for each in there if each is not None][: self._max_running]
        return all(each.caller == turn.caller for each in running)

    def enter(self, turn: Turn) -> None:
        """Stand at the end of the line."""
        self._turns.append(weakref.ref(turn, self._leave))

    def leave(self, turn: Turn) -> None:
        """Let the next one have its turn; more calls do nothing."""
        self._leave(weakref.ref(turn))

    def lose_threads(self) -> None:
        """In a forked process, drop the texts of all threads but the calling one."""
        there = [reference() for reference in self._turns]
        self._turns = [
            weakref.ref(turn, self._leave)
            for turn in there
            if turn is not None and turn.caller == caller()
        ]

    def _leave(self, reference: weakref.ref[Turn]) -> None:
        with contextlib.suppress(ValueError):
            self._turns.remove(reference)
            self._ring()

    def _ring(self) -> None:
        for reference in self._turns.copy():
            if (turn := reference()) is not None:
                turn.ring()


class Turn:
    """One text's place in a line, from the first ``wait`` until it leaves or is dropped."""

    def __init__(self, line: WaitingLine) -> None:
        self._line = line
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._has_come = self._is_there = False
        self._caller: object = None

    @property
    def caller(self) -> object:
        """The caller that last waited for the turn, or continued the text."""
        return self._caller

    @property
    def position(self) -> int:
        """How many texts have to end before this one begins; 0 while it does not wait."""
        return 0 if self._has_come or not self._is_there else self._line.position(self)

    def wait(self, cancelled: CancelToken) -> None:
        """Return when it is this one's turn, or when it is cancelled; at once from then on.

        EdgellamaError if it can never come, because it waits for texts of the same caller.
        """
        self._caller = caller()
        if self._has_come:
            return
        self._line.enter(self)
        self._is_there = True
        entered = monotonic()
        while self._line.position(self) > 0 and not cancelled.cancelled:
            self._alarm.acquire(timeout=POLL_S)
            if monotonic() - entered > OWN_WAIT_S and self._line.waits_for_itself(self):
                self.leave()
                raise EdgellamaError(
                    f"max_concurrent is {self._line.max_running}, and so many texts were begun and "
                    "not ended by whoever begins this one, which would wait for itself; end or "
                    "close one of them first"
                )
        self._has_come = True

    @contextlib.contextmanager
    def taken(self, cancelled: CancelToken) -> Iterator[None]:
        """Wait for the turn, and make room for others in the end."""
        try:
            self.wait(cancelled)
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Make room for others."""
        self._has_come = True
        self._line.leave(self)

    def ring(self) -> None:
        """Let the waiting thread look again."""
        with contextlib.suppress(RuntimeError):
            self._alarm.release()
