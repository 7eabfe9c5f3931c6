"""What the machine offers: tiers, threads, quotas, each read from made-up machines too."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgellama.kernels_cpu.machine import cpu, cpu_features
from edgellama.kernels_cpu.machine.cpu import (
    AMX,
    ARMV8,
    AVX512VNNI,
    GENERIC,
    NEON_DOTPROD,
    SSE4,
    THREADS_VARIABLE,
    TIER_VARIABLE,
    TIERS,
    available_tiers,
    cgroup_cpu_quota,
    compilable_tiers,
    default_num_threads,
    select_tier,
    usable_cpus,
    usable_physical_cores,
)
from edgellama.kernels_cpu.machine.cpu_features import FEATURE_BITS, features_of, host_features
from edgellama.quant.errors import KernelError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests start without the environment variables that they are about."""
    monkeypatch.delenv(TIER_VARIABLE, raising=False)
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)


def test_tiers_fastest_first() -> None:
    """The widest tier comes first, the generic one last; without a name the first is taken."""
    assert [tier.lanes for tier in TIERS] == sorted((t.lanes for t in TIERS), reverse=True)
    assert available_tiers()[-1] == GENERIC
    assert select_tier() == available_tiers()[0]


def test_tier_by_name_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable forces a tier, a name given in the code goes before it."""
    assert select_tier("generic") == GENERIC
    monkeypatch.setenv(TIER_VARIABLE, "generic")
    assert select_tier() == GENERIC
    monkeypatch.setenv(TIER_VARIABLE, "no-such-tier")
    assert select_tier("generic") == GENERIC
    monkeypatch.setenv(TIER_VARIABLE, "")
    assert select_tier() == available_tiers()[0]


def test_unknown_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown tier is refused with its name and those that there are, wherever it is named."""
    with pytest.raises(KernelError, match=r"'sse9'.*available here:.*generic"):
        select_tier("sse9")
    monkeypatch.setenv(TIER_VARIABLE, "sse9")
    with pytest.raises(KernelError, match=r"'sse9'.*available here:.*generic"):
        select_tier()


def test_tier_that_the_cpu_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known tier whose features the CPU lacks is not chosen, and refused by name."""
    monkeypatch.setattr(cpu, "host_features", lambda: AVX512VNNI.requires - {"avx512vnni"})
    assert select_tier() == GENERIC
    with pytest.raises(KernelError, match="avx512vnni"):
        select_tier("avx512vnni")


@pytest.mark.parametrize(
    ("cpuinfo", "board", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n", None, "Some CPU @ 3 GHz"),
        ("processor\t: 0\nCPU part\t: 0xd08\n", "Raspberry Pi 4 Model B Rev 1.4\0",
         "Raspberry Pi 4 Model B Rev 1.4"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", None, platform.machine()),
        ("processor\t: 0\n", "\0", platform.machine()),
    ],
)  # fmt: skip
def test_name_of_the_cpu(tmp_path: Path, cpuinfo: str, board: str | None, expected: str) -> None:
    """x86 tells the processor's model; Arm tells its board's, or nothing but the architecture."""
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    if board is not None:
        (tmp_path / "device-tree").mkdir()
        (tmp_path / "device-tree" / "model").write_text(board)
    assert cpu.cpu_name(tmp_path) == expected


def test_tiers_of_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 64-bit Arm has a tier of its own, and a faster one with dot products."""
    monkeypatch.setattr(cpu.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"neon"}))
    assert available_tiers() == (ARMV8, GENERIC)
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"neon", "dotprod"}))
    assert available_tiers() == (NEON_DOTPROD, ARMV8, GENERIC)


@pytest.mark.parametrize(("system", "has_tiles"), [("linux", True), ("win32", False)])
def test_tiers_that_a_system_withholds(
    monkeypatch: pytest.MonkeyPatch, system: str, has_tiles: bool
) -> None:
    """Nothing is compiled for a tier that no process of this system could choose."""
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "sys", SimpleNamespace(platform=system))
    assert (AMX in compilable_tiers()) is has_tiles
    assert compilable_tiers()[-1] == GENERIC and AVX512VNNI in compilable_tiers()


def test_tiers_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features count only on the architecture that they belong to; generic runs anywhere."""
    monkeypatch.setattr(cpu, "host_features", lambda: AVX512VNNI.requires)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "AMD64")
    assert available_tiers()[0] == AVX512VNNI
    monkeypatch.setattr(cpu, "host_features", lambda: SSE4.requires)
    assert available_tiers() == (SSE4, GENERIC)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "aarch64")
    assert available_tiers() == (GENERIC,)


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", " "])
def test_bad_number_of_threads(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A variable that is no positive whole number is refused with its value."""
    monkeypatch.setenv(THREADS_VARIABLE, text)
    with pytest.raises(KernelError, match=THREADS_VARIABLE):
        default_num_threads()


def test_number_of_threads_from_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable goes before what the machine has."""
    monkeypatch.setattr(cpu, "cgroup_cpu_quota", lambda: 1.0)
    monkeypatch.setenv(THREADS_VARIABLE, "7")
    assert default_num_threads() == 7


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [(8, None, 8), (8, 3.0, 3), (8, 2.7, 2), (2, 4.0, 2), (4, 0.5, 1), (1, None, 1)],
)
def test_default_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, expected: int
) -> None:
    """The default is the smaller of cores and quota, rounded down, but at least one."""
    monkeypatch.setattr(cpu, "usable_physical_cores", lambda: cores)
    monkeypatch.setattr(cpu, "cgroup_cpu_quota", lambda: quota)
    assert default_num_threads() == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("50000 100000", 0.5),
        ("100000 0\n", None),
        ("nonsense\n", None),
        ("", None),
    ],
)
def test_quota_of_cgroup_v2(tmp_path: Path, content: str, expected: float | None) -> None:
    """``cpu.max`` holds quota and period, or "max" for no limit; anything else is no limit."""
    (tmp_path / "cpu.max").write_text(content)
    assert cgroup_cpu_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("-1", "100000", None), ("300000", "100000", 3.0), ("0", "100000", None), ("x", "y", None)],
)
def test_quota_of_cgroup_v1(
    tmp_path: Path, quota: str, period: str, expected: float | None
) -> None:
    """Two files hold quota and period; -1 means no limit."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert cgroup_cpu_quota(tmp_path) == expected


def test_no_cgroup(tmp_path: Path) -> None:
    """Without the files there is no limit."""
    assert cgroup_cpu_quota(tmp_path) is None
    assert cgroup_cpu_quota(tmp_path / "missing") is None


def write_siblings(folder: Path, siblings: dict[int, str]) -> None:
    """A made-up /sys/devices/system/cpu."""
    for number, text in siblings.items():
        topology = folder / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("usable", "siblings", "expected"),
    [
        ({0, 1, 2, 3}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, 2),
        ({0, 1, 2, 3}, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, 2),
        ({0, 1}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, 2),
        ({0, 2}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, 1),
        ({0, 1}, {0: "0", 1: "1"}, 2),
    ],
)
def test_hardware_threads(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    usable: set[int],
    siblings: dict[int, str],
    expected: int,
) -> None:
    """Hardware threads of one core count once, and only those that the process may use."""
    write_siblings(tmp_path, siblings)
    monkeypatch.setattr(cpu, "usable_cpus", lambda: frozenset(usable))
    assert usable_physical_cores(tmp_path) == expected


def test_machine_without_topology(tmp_path: Path) -> None:
    """Where the topology cannot be read there is still at least one core, and not too many."""
    assert 1 <= usable_physical_cores(tmp_path) <= len(usable_cpus())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity() -> None:
    """A process that is bound to one CPU starts one thread."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() == {min(before)}
        assert default_num_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


TILES = {"amx-tile", "amx-int8"}


@pytest.mark.skipif("amx-tile" not in host_features(), reason="no tile registers here")
def test_tile_registers_that_linux_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system lets a process have no tile registers, the next slower tier is chosen."""
    monkeypatch.setattr(cpu_features, "REQUEST_PERMISSION", -1)
    assert select_tier() == AVX512VNNI


@pytest.mark.skipif(not cpu_features.is_x86(), reason="LLVM and cpuid tell of x86-64")
def test_features_are_those_that_llvm_finds() -> None:
    """Every feature that tiers can ask for is told as LLVM tells it."""
    from llvmlite import binding

    told = binding.get_host_cpu_features()
    # LLVM does not know whether the system lets this process use tile registers.
    withheld = TILES - host_features()
    assert {name for name in FEATURE_BITS if told[name]} - withheld == host_features()
    assert {name for tier in TIERS if not tier.is_arm for name in tier.requires} <= set(
        FEATURE_BITS
    )


ALL_BITS = (0xFFFFFFFF,) * 4
WIDE = {"avx", "avx2", "avxvnni", "f16c", "fma"}


@pytest.mark.parametrize(
    ("answers", "saved", "is_mac", "missing"),
    [
        ({(0, 0): (7,), (1, 0): ALL_BITS, (7, 0): ALL_BITS, (7, 1): ALL_BITS}, 0x600E7, False,
         set()),
        ({(0, 0): (7,), (1, 0): ALL_BITS, (7, 0): ALL_BITS, (7, 1): ALL_BITS}, 0x200E7, False,
         TILES),
        ({(0, 0): (7,), (1, 0): ALL_BITS, (7, 0): ALL_BITS, (7, 1): ALL_BITS}, 0xE7, False, TILES),
        ({(0, 0): (7,), (1, 0): ALL_BITS, (7, 0): (0, *ALL_BITS[1:])}, 0x600E7, False, {"avxvnni"}),
        ({(0, 0): (7,), (1, 0): ALL_BITS, (7, 0): ALL_BITS, (7, 1): ALL_BITS}, 0x07, True, TILES),
        ({(0, 0): (7,), (1, 0): ALL_BITS, (7, 0): ALL_BITS, (7, 1): ALL_BITS}, 0x07, False,
         TILES | {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni"}),
        ({(0, 0): (7,), (1, 0): ALL_BITS, (7, 0): ALL_BITS, (7, 1): ALL_BITS}, 0x03, True,
         WIDE | TILES | {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni"}),
        ({(0, 0): (1,), (1, 0): ALL_BITS}, 0xE7, False,
         {name for name, (leaf, _, _) in FEATURE_BITS.items() if leaf[0] == 7}),
    ],
)  # fmt: skip
def test_features_of_other_cpus(
    answers: dict[tuple[int, int], tuple[int, ...]], saved: int, is_mac: bool, missing: set[str]
) -> None:
    """Only leaves that a CPU has are asked for, and only registers that the system saves count."""

    def ask(leaf: tuple[int, int]) -> tuple[int, int, int, int]:
        eax, ebx, ecx, edx = (*answers[leaf], 0, 0, 0)[:4]
        return eax, ebx, ecx, edx

    assert set(FEATURE_BITS) - features_of(ask, saved, is_mac) == missing
