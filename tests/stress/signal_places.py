"""Ctrl-C at the n-th place where it can come: counted while a function runs.

The signal is a real one, which the interpreter handles where it does: behind calls, at the
beginnings of functions, and when loops go round.
"""

from __future__ import annotations

import _weakrefset
import contextlib
import dis
import signal
import sys
import threading
import weakref
from _thread import interrupt_main
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import CodeType, FrameType
from typing import Any

from places import REPOSITORY

HANDLING = ("CALL", "CALL_FUNCTION", "CALL_FUNCTION_EX", "CALL_FUNCTION_KW", "CALL_METHOD")
"""Opcodes after which signals are handled, besides those that jump back; others may call functions
unseen, at whose beginnings they are handled."""
OWN_FILES = (
    str(REPOSITORY),
    *(module.__file__ for module in (contextlib, threading, weakref, _weakrefset)),
)
"""Whose places are counted; what else is called is interrupted at its beginning."""
REPEATS = 2
"""How often a place counts that is reached by the same calls again."""
DEPTH = 4
"""How many calls tell a place from another one."""


class _Signal(int):
    """A signal's number. No opcode of who looks at ``comes`` handles the signal."""

    comes = property(interrupt_main)


class SignalPlaces:
    """Runs a function, to which Ctrl-C comes at one place or at several."""

    def __init__(self) -> None:
        self.handler: Callable[[], object] | None = None
        """What is called where a signal comes; None raises KeyboardInterrupt."""
        self.num_passed = 0
        """Places that the last function has passed."""
        self.landed: list[str] = []
        """Where the signals were handled in it."""
        self._places: list[int] = []
        self._next = 0
        self._is_inside = self._is_interrupted = False
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._calling: set[tuple[CodeType, int]] = set()

    def count(self, function: Callable[[], object]) -> int:
        """How many places a function passes that is not interrupted."""
        # What calls functions unseen is seen the first time.
        self.is_interrupted(function, ())
        return self.num_passed

    def is_interrupted(self, function: Callable[[], object], places: Sequence[int]) -> bool:
        """Whether KeyboardInterrupt came out of a function.

        ``places``: how many places are passed before the first signal, and between two.
        """
        self.num_passed, self.landed, self._places = 0, [], list(places)
        self._seen.clear()
        before = signal.signal(signal.SIGINT, self._handle)
        self._choose_next()
        self._is_inside, self._is_interrupted = True, False
        try:
            sys.settrace(self._enter)
            function()
            self._is_inside = False
        except KeyboardInterrupt:
            self._is_inside = False
            self._is_interrupted = True
        except RuntimeError as error:
            self._is_inside = False
            # A condition of Python's own, such as one that waits for a thread, says this instead.
            if str(error) != "release unlocked lock":
                raise
            self._is_interrupted = True
        finally:
            sys.settrace(None)
        # What the traceback has held is gone.
        signal.signal(signal.SIGINT, before)
        return self._is_interrupted

    def _choose_next(self) -> None:
        self._next = self.num_passed + self._places.pop(0) if self._places else 0

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        """Look at a function that is called, or goes on, if it is one of ours."""
        caller = frame.f_back
        if caller is not None:
            self._calling.add((caller.f_code, caller.f_lasti))
        if not frame.f_code.co_filename.startswith(OWN_FILES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        calls: list[object] = [frame.f_code]
        while caller is not None and len(calls) < 2 * DEPTH:
            calls += caller.f_code, caller.f_lasti
            caller = caller.f_back
        return partial(self._pass, tuple(calls))

    def _pass(self, calls: tuple[object, ...], frame: FrameType, event: str, _: Any) -> Any:
        """Count a place, and let the signal come if it is the one."""
        code, offset = frame.f_code, frame.f_lasti
        if event == "opcode" and (offset in _handling(code) or (code, offset) in self._calling):
            place = (*calls, offset)
            if self._seen[place] < REPEATS:
                self._seen[place] += 1
                self.num_passed += 1
                if self.num_passed == self._next:
                    # Else the signal would be handled in the next call of this function.
                    sys.settrace(None)
                    return _Signal(signal.SIGINT).comes
        return None

    def _handle(self, _: int, frame: FrameType | None) -> None:
        if not self._is_inside:
            # Out of a finalizer of what the function has left.
            self._is_interrupted = True
            return
        names = []
        while frame is not None and len(names) < DEPTH:
            names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        self.landed.append(" < ".join(names))
        if self._places:
            self._choose_next()
            sys.settrace(self._enter)
        if self.handler is None:
            raise KeyboardInterrupt
        self.handler()


@cache
def _handling(code: CodeType) -> frozenset[int]:
    """Where in a function signals are handled."""
    return frozenset(
        each.offset
        for each in dis.get_instructions(code)
        if each.opname in HANDLING or "JUMP_BACKWARD" in each.opname or "ABSOLUTE" in each.opname
    )
