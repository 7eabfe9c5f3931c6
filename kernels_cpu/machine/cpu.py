"""What this machine offers: instruction-set tiers, and how many threads are worth starting.

Knows the table of tiers; what the CPU has is told by ``cpu_features``. Leaves code generation to
``jit`` and the choice of kernels to the engine. Imports neither numba nor any kernel.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Literal

from edgellama.kernels_cpu.machine.cpu_features import ARM_MACHINES, X86_MACHINES, host_features
from edgellama.quant.errors import KernelError
from edgellama.quant.records import dataclass

TIER_VARIABLE = "EDGELLAMA_TIER"
THREADS_VARIABLE = "EDGELLAMA_NUM_THREADS"
Dot4 = Literal["plain", "unsigned", "pairs", "signed", "signed_pairs"]
"""How four byte products are summed: without an instruction for it; unsigned times signed at
once; in pairs of unsigned times signed that saturate at 16 bits; signed times signed at once, or
in pairs of 16 bits."""


@dataclass(frozen=True)
class Tier:
    """One instruction set that kernels can be compiled for.

    ``lanes`` is the vector width in 32-bit lanes; ``requires`` are LLVM feature names that the
    CPU must have; ``llvm_cpu`` and ``llvm_features`` fix the instructions the compiler may use.
    ``systems`` are those that let programs run it, as ``sys.platform`` calls them, none for all.
    ``rounds_like`` names the tier whose results are the same bits.
    """

    name: str
    lanes: int
    llvm_cpu: str
    llvm_features: str = ""
    requires: frozenset[str] = frozenset()
    machines: tuple[str, ...] = X86_MACHINES
    has_f16_conversion: bool = True
    has_fma: bool = True
    has_pair_dot: bool = True
    has_byte_shuffle: bool = True
    dot4: Dot4 = "unsigned"
    has_byte_tiles: bool = False
    systems: tuple[str, ...] = ()
    rounds_like: str = ""

    @property
    def arithmetic(self) -> str:
        """The name of its results, to the bit: tiers that share it compute the same."""
        return self.rounds_like or self.name

    @property
    def is_arm(self) -> bool:
        """Whether the instructions are those of 64-bit Arm."""
        return self.machines == ARM_MACHINES

    def runs_on(self, machine: str, features: frozenset[str]) -> bool:
        """Whether a CPU of this architecture and feature set can run the tier."""
        return (not self.machines or machine in self.machines) and self.requires <= features


AVX512VNNI = Tier(
    name="avx512vnni",
    lanes=16,
    llvm_cpu="x86-64-v4",
    llvm_features="+avx512vnni",
    requires=frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "f16c"}),
)
AMX = Tier(
    name="amx",
    lanes=16,
    llvm_cpu="x86-64-v4",
    llvm_features="+avx512vnni,+amx-tile,+amx-int8",
    requires=AVX512VNNI.requires | {"amx-tile", "amx-int8"},
    has_byte_tiles=True,
    systems=("linux",),
    rounds_like=AVX512VNNI.name,
)
"""Servers and workstations with Intel's Xeon since 2023 (Sapphire Rapids)."""
AVXVNNI = Tier(
    name="avxvnni",
    lanes=8,
    llvm_cpu="x86-64-v3",
    llvm_features="+avxvnni",
    requires=frozenset({"avx2", "fma", "f16c", "bmi2", "avxvnni"}),
)
AVX2 = Tier(
    name="avx2",
    lanes=8,
    llvm_cpu="x86-64-v3",
    requires=frozenset({"avx2", "fma", "f16c", "bmi2"}),
    dot4="pairs",
)
SSE4 = Tier(
    name="sse4",
    lanes=4,
    llvm_cpu="x86-64-v2",
    requires=frozenset({"ssse3", "sse4.1", "sse4.2", "popcnt"}),
    has_f16_conversion=False,
    has_fma=False,
    dot4="pairs",
    rounds_like="generic",
)
"""x86 without AVX2, such as Intel's Celeron and Pentium up to 2022."""
NEON_DOTPROD = Tier(
    name="neon",
    lanes=4,
    llvm_cpu="generic",
    llvm_features="+neon,+dotprod",
    requires=frozenset({"dotprod"}),
    machines=ARM_MACHINES,
    has_pair_dot=False,
    dot4="signed",
)
ARMV8 = Tier(
    name="armv8",
    lanes=4,
    llvm_cpu="generic",
    llvm_features="+neon",
    requires=frozenset({"neon"}),
    machines=ARM_MACHINES,
    has_pair_dot=False,
    dot4="signed_pairs",
)
"""Every 64-bit Arm, such as the Cortex-A72 of a Raspberry Pi 4."""
GENERIC = Tier(
    name="generic",
    lanes=4,
    llvm_cpu="",
    machines=(),
    has_f16_conversion=False,
    has_fma=False,
    has_pair_dot=False,
    has_byte_shuffle=False,
    dot4="plain",
)
TIERS: tuple[Tier, ...] = (AMX, AVX512VNNI, AVXVNNI, AVX2, SSE4, NEON_DOTPROD, ARMV8, GENERIC)
"""Fastest first."""


def cpu_name(system: Path = Path("/proc")) -> str:
    """The model of this CPU as the system calls it, of its board on Arm, or the architecture."""
    try:
        lines = (system / "cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if names:
        return names[0]
    try:
        board = (system / "device-tree" / "model").read_text("utf-8", "replace")
    except OSError:
        return platform.machine()
    return board.strip("\0 \n") or platform.machine()


def available_tiers() -> tuple[Tier, ...]:
    """The tiers that this machine can run, fastest first."""
    machine, features = platform.machine().lower(), host_features()
    return tuple(tier for tier in TIERS if tier.runs_on(machine, features))


def compilable_tiers() -> tuple[Tier, ...]:
    """The tiers of this machine's architecture and system, also those that its CPU cannot run."""
    machine = platform.machine().lower()
    return tuple(
        tier
        for tier in TIERS
        if (not tier.machines or machine in tier.machines)
        and (not tier.systems or sys.platform in tier.systems)
    )


def compilable_tier(name: str) -> Tier:
    """The one of them called ``name``; KernelError if there is none."""
    for tier in compilable_tiers():
        if tier.name == name:
            return tier
    known = ", ".join(tier.name for tier in compilable_tiers())
    raise KernelError(f"tier {name!r} cannot be compiled for here; allowed: {known}")


def select_tier(name: str | None = None) -> Tier:
    """The tier called ``name``, or the one that EDGELLAMA_TIER names, or the fastest.

    Raises KernelError when the name is unknown or the CPU cannot run it.
    """
    wanted = name or os.environ.get(TIER_VARIABLE)
    available = available_tiers()
    if not wanted:
        return available[0]
    for tier in available:
        if tier.name == wanted:
            return tier
    known = ", ".join(tier.name for tier in available)
    raise KernelError(f"tier {wanted!r} cannot run on this CPU; available here: {known}")


def default_num_threads() -> int:
    """Physical cores, no more than the affinity mask and the container's CPU quota allow."""
    from_environment = os.environ.get(THREADS_VARIABLE)
    if from_environment:
        if not from_environment.isdecimal() or int(from_environment) < 1:
            raise KernelError(
                f"{THREADS_VARIABLE} is {from_environment!r}; it must be a whole number from 1"
            )
        return int(from_environment)
    limits = [usable_physical_cores()]
    quota = cgroup_cpu_quota()
    if quota is not None:
        limits.append(max(1, int(quota)))
    return max(1, min(limits))


def usable_cpus() -> frozenset[int]:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def usable_physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """Physical cores among the usable CPUs: hardware threads of one core count once."""
    cpus = usable_cpus()
    cores = set()
    for cpu in cpus:
        siblings = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            return _physical_cores_without_sysfs(len(cpus))
    return len(cores)


def _physical_cores_without_sysfs(num_logical: int) -> int:
    try:
        import psutil
    except ImportError:
        return num_logical
    return min(num_logical, psutil.cpu_count(logical=False) or num_logical)


def cgroup_cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the container may use (cgroup v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``), or None."""
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        share = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None
