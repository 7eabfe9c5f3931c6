"""The most memory that this process has held, as the operating system reports it.

Predicting memory is left to ``edgellama.measure``, and finding free memory to
``quant.free_memory``.
"""

from __future__ import annotations

import sys
from pathlib import Path


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
