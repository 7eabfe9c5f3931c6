"""How long a context this machine's memory allows by default.

It knows the size of a token in the KV cache and where the system tells free memory. A length
that the user asks for is not its business.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Protocol

from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BYTES

logger = logging.getLogger(__name__)

KV_SHARE_OF_MEMORY = 0.5
"""The rest is for the weights, which live in the page cache, and for other programs."""
LENGTH_STEP = 256
SMALLEST_LENGTH = 512


class CacheSizes(Protocol):
    """The part of a model's configuration that sizes its KV cache."""

    @property
    def context_length(self) -> int: ...
    @property
    def block_count(self) -> int: ...
    @property
    def head_count_kv(self) -> int: ...
    @property
    def head_size(self) -> int: ...


def default_context_length(config: CacheSizes, kv_type: str, available_bytes: int | None) -> int:
    """The model's own context length, or less where its cache would not fit ``available_bytes``.

    ``kv_type`` "f16" or "f32"; None bytes means that free memory is unknown and nothing is
    capped.
    """
    own_length = config.context_length
    if available_bytes is None:
        return own_length
    numbers = 2 * config.block_count * config.head_count_kv * config.head_size
    token_bytes = numbers * CACHE_NUMBER_BYTES[kv_type]
    fitting = int(available_bytes * KV_SHARE_OF_MEMORY) // token_bytes
    capped = max(fitting // LENGTH_STEP * LENGTH_STEP, SMALLEST_LENGTH)
    if capped >= own_length:
        return own_length
    logger.warning(
        "the context is %d tokens, not the model's %d, because of free memory; "
        "context_length overrides this",
        capped,
        own_length,
    )
    return capped


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
