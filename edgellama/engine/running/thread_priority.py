"""Lets threads give way to other programs, on each system.

Only threads of our own are lowered, since not every system lets every user raise a thread again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable

NICENESS = 10
"""Of 19: a tenth of a core that another program wants, and all of a free one."""
THREAD_SET_INFORMATION, BELOW_NORMAL = 0x0020, -1


def lower_priority(thread_ids: Iterable[int]) -> None:
    """Let these threads give way; by the system's numbers. Those that are gone are left out.

    On macOS a thread could only lower itself, so there nothing happens.
    """
    for number in thread_ids:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                # A process that gives way further already must not be raised.
                niceness = max(os.getpriority(os.PRIO_PROCESS, number), NICENESS)
                os.setpriority(os.PRIO_PROCESS, number, niceness)
        elif sys.platform == "win32":
            _lower_on_windows(number)


def _lower_on_windows(number: int) -> None:
    import ctypes

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    kernel.OpenThread.restype = ctypes.c_void_p
    handle = kernel.OpenThread(THREAD_SET_INFORMATION, False, number)
    if handle:
        kernel.SetThreadPriority(ctypes.c_void_p(handle), BELOW_NORMAL)
        kernel.CloseHandle(ctypes.c_void_p(handle))
