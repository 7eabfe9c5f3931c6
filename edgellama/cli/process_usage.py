"""How long this process has lived.

The operating system is asked, so that the interpreter's own start counts too.
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
