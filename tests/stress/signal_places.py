"""Ctrl-C at the n-th place where it can come: counted by the opcodes of all Python code.

The signal is a real one, which the interpreter handles where it does: behind calls, at the
beginnings of functions, and when loops go round.
"""

from __future__ import annotations

import dis
import signal
import sys
from _thread import interrupt_main
from collections.abc import Callable, Sequence
from functools import cache
from types import CodeType, FrameType
from typing import Any

NEVER_HANDLE = (
    "CACHE", "COPY", "COPY_FREE_VARS", "EXTENDED_ARG", "JUMP_FORWARD", "KW_NAMES", "LOAD_CLOSURE",
    "LOAD_CONST", "LOAD_DEREF", "LOAD_FAST", "LOAD_GLOBAL", "MAKE_CELL", "NOP", "PRECALL",
    "PUSH_NULL", "RESUME", "SWAP",
)  # fmt: skip
"""Opcodes in which no signal is handled, and which call nothing: the next one comes to the same."""


class _Signal(int):
    """A signal's number. No opcode of who looks at ``comes`` handles the signal."""

    comes = property(interrupt_main)


class SignalPlaces:
    """Runs a function, to which Ctrl-C comes at one place or at several."""

    def __init__(self) -> None:
        self.num_passed = 0
        """Places that the last function has passed."""
        self.landed: list[str] = []
        """Where the signals were handled in it."""
        self._places: list[int] = []
        self._next = 0

    def is_interrupted(self, function: Callable[[], object], places: Sequence[int]) -> bool:
        """Whether KeyboardInterrupt came out of a function.

        ``places``: how many places are passed before the first signal, and between two. With none
        the places are counted.
        """
        self.num_passed, self.landed, self._places = 0, [], list(places)
        before = signal.signal(signal.SIGINT, self._handle)
        self._choose_next()
        try:
            sys.settrace(self._trace)
            function()
            sys.settrace(None)
            return False
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
            signal.signal(signal.SIGINT, before)

    def _choose_next(self) -> None:
        self._next = self.num_passed + self._places.pop(0) if self._places else 0

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return None if frame.f_code.co_filename.startswith("<frozen") else self._trace
        if event == "opcode" and frame.f_lasti in _places_of(frame.f_code):
            self.num_passed += 1
            if self.num_passed == self._next:
                # Else the signal would be handled in the next call of this function.
                sys.settrace(None)
                return _Signal(signal.SIGINT).comes
        return self._trace

    def _handle(self, _: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None and len(names) < 4:
            names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        self.landed.append(" < ".join(names))
        if self._places:
            self._choose_next()
            sys.settrace(self._trace)
        raise KeyboardInterrupt


@cache
def _places_of(code: CodeType) -> frozenset[int]:
    """Where in a function the opcodes are that count."""
    return frozenset(
        each.offset for each in dis.get_instructions(code) if each.opname not in NEVER_HANDLE
    )
