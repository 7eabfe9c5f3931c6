"""Waits for the end of another process, without polling where the system allows it.

``--parent-pid`` needs it: a server ends with the program that started it. ``run`` ends the server.
"""

from __future__ import annotations

import asyncio
import os
import sys

from edgellama.quant.errors import InvalidOptionError

POLL_S = 1.0


def check_parent(pid: int) -> None:
    """InvalidOptionError unless a process of this number runs."""
    if pid < 1 or not is_running(pid):
        raise InvalidOptionError(f"parent_pid is {pid}; allowed: the number of a running process")


async def when_parent_ends(pid: int) -> None:
    """Return once the process has ended."""
    descriptor = _descriptor(pid)
    if descriptor is None:
        while is_running(pid):
            await asyncio.sleep(POLL_S)
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    if sys.platform == "win32":
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _descriptor(pid: int) -> int | None:
    """Becomes readable when the process ends; None if there is no such thing (not Linux)."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
