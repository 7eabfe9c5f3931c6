"""How much memory this process has held and how much is free, as the operating system tells."""

from __future__ import annotations

import os
import re
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


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping, within a container's limit; None if unknown."""
    known = [size for size in (_system_bytes(), _container_bytes()) if size is not None]
    return min(known, default=None)


def _system_bytes() -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    try:
        import psutil
    except ImportError:
        return _half_of_physical_bytes()
    return int(psutil.virtual_memory().available)


def _half_of_physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _container_bytes(folder: str = "/sys/fs/cgroup") -> int | None:
    """What a cgroup's limit leaves; cached file pages count as free, as in MemAvailable."""
    limit, used = _text(f"{folder}/memory.max").strip(), _text(f"{folder}/memory.current").strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    cached = re.search(r"^file (\d+)", _text(f"{folder}/memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
