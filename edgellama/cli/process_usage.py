"""How long this process has lived and how much memory it has held at most.

Asks the operating system, not the interpreter, so that the interpreter's own start counts.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def seconds_since_start() -> float:
    """Seconds since the operating system started this process."""
    if sys.platform == "linux":
        # The command's name is in parentheses and may hold spaces; field 22 is the start.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    else:
        import psutil

        return time.time() - float(psutil.Process().create_time())


def peak_memory_bytes() -> int:
    """The most resident memory this process has held, mapped model pages included."""
    if sys.platform == "linux":
        # ru_maxrss would carry over the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    elif sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    else:
        import resource

        unit_bytes = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
