"""How much memory can be had: limits of containers of both versions, and of ulimit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgellama.quant.free_memory import available_memory_bytes, container_bytes

Limits = dict[str, tuple[str, str, str]]
"""By folder: limit, what is used, and statistics."""
STATISTICS = "anon 400\nfile 300\nshmem 100\nfile_mapped 5\n"
OLD_STATISTICS = "cache 1\ntotal_cache 300\ntotal_shmem 100\n"


def test_available_memory() -> None:
    """What this machine reports is at least some megabytes."""
    available = available_memory_bytes()
    assert available is None or available > 10_000_000


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {"": ("1000\n", "700\n", STATISTICS)}, 500),
        ("0::/\n", {"": ("max\n", "700\n", STATISTICS)}, None),
        ("0::/\n", {"": ("", "", "")}, None),
        (
            "0::/a/b\n",
            {"a/b": ("max", "7", ""), "a": ("900", "100", ""), "": ("max", "9", "")},
            800,
        ),
        ("0::/a\n", {"a": ("5000", "100", ""), "": ("3000", "200", "")}, 2800),
        ("0::/../gone\n", {"": ("1000", "1200", "file 100\n")}, 0),
        ("5:memory:/d\n0::/\n", {"memory/d": ("1000", "700", OLD_STATISTICS)}, 500),
        ("5:memory:/gone\n", {"memory": ("1000", "700", OLD_STATISTICS)}, 500),
        ("5:memory:/\n1:cpu:/x\n", {"memory": (f"{2**63 - 4096}", "700", "")}, None),
        ("", {"": ("1000", "700", "")}, 300),
        ("", {}, None),
    ],
)
def test_limits_of_containers(
    tmp_path: Path, own: str, limits: Limits, expected: int | None
) -> None:
    """The tightest of the own group and those around it; cached file pages count as free."""
    for folder, (limit, used, statistics) in limits.items():
        group = tmp_path / "groups" / folder
        group.mkdir(parents=True, exist_ok=True)
        is_old = folder.startswith("memory")
        (group / ("memory.limit_in_bytes" if is_old else "memory.max")).write_text(limit)
        (group / ("memory.usage_in_bytes" if is_old else "memory.current")).write_text(used)
        (group / "memory.stat").write_text(statistics)
    (tmp_path / "cgroup").write_text(own)
    assert container_bytes(tmp_path / "groups", tmp_path / "cgroup") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="addresses are counted in /proc")
def test_ulimit_counts() -> None:
    """Of a process's limited addresses only what is left can be had."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000));"
        "from edgellama.quant.free_memory import available_memory_bytes;"
        "print(available_memory_bytes())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert 0 < int(found) < 395_000_000
