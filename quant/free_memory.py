"""How much memory is still free: by the operating system, a container's limit and ulimit.

The callers know how much of it a model would take.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
NO_LIMIT = 1 << 60
"""Limits from here on are none: version 1 writes its largest number."""


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping, within all limits; None if unknown."""
    limited = (_system_bytes(), container_bytes(), _address_bytes())
    return min((size for size in limited if size is not None), default=None)


def container_bytes(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int | None:
    """What the limits of this process's control groups leave; None without a limit.

    Of both versions, of the own group and all around it. Cached file pages count as free, as
    in MemAvailable.
    """
    left = [_unused_bytes(folder) for folder in dict.fromkeys(_groups(root, own))]
    return min((size for size in left if size is not None), default=None)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders that may limit this process; in a container the own path may not be there."""
    for line in _text(own).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers not in ("", "memory"):
            continue
        top = root / "memory" if controllers else root
        inside = Path(path.lstrip("/"))
        yield from (top / folder for folder in (inside, *inside.parents))
    yield from (root, root / "memory")


def _unused_bytes(folder: Path) -> int | None:
    for names, caches in (
        (("memory.max", "memory.current"), ("file", "shmem")),
        (("memory.limit_in_bytes", "memory.usage_in_bytes"), ("total_cache", "total_shmem")),
    ):
        limit, used = (_text(folder / name).strip() for name in names)
        if limit.isdigit() and used.isdigit() and int(limit) < NO_LIMIT:
            cached, shared = (_counted(folder / "memory.stat", name) for name in caches)
            return max(0, int(limit) - int(used) + max(0, cached - shared))
    return None


def _counted(path: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)", _text(path), re.MULTILINE)
    return int(found[1]) if found else 0


def _system_bytes() -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
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


def _address_bytes() -> int | None:
    """What ``ulimit -v`` leaves of this process's addresses."""
    if sys.platform != "linux":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(Path("/proc/self/statm")).split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, limit - int(pages[0]) * resource.getpagesize())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
