"""What instructions this CPU has and the system lets programs use, by LLVM's names for them.

Knows how x86-64 (the instruction ``cpuid``) and 64-bit Arm (the system's word) tell it. Which of
them make a tier is known to ``cpu``.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.machine.executable_memory import ExecutableMemory

X86_MACHINES = ("x86_64", "amd64")
ARM_MACHINES = ("aarch64", "arm64")
APPLE_FEATURES = frozenset({"neon", "dotprod"})
"""What every Mac with an Arm processor has."""

Leaf = tuple[int, int]
"""What ``cpuid`` is asked for: its inputs eax and ecx."""
Registers = tuple[int, int, int, int]
EAX, EBX, ECX, EDX = range(4)
BASIC, EXTENDED, FURTHER = (1, 0), (7, 0), (7, 1)
FEATURE_BITS: Mapping[str, tuple[Leaf, int, int]] = MappingProxyType(
    {
        "ssse3": (BASIC, ECX, 9),
        "sse4.1": (BASIC, ECX, 19),
        "sse4.2": (BASIC, ECX, 20),
        "popcnt": (BASIC, ECX, 23),
        "fma": (BASIC, ECX, 12),
        "avx": (BASIC, ECX, 28),
        "f16c": (BASIC, ECX, 29),
        "bmi": (EXTENDED, EBX, 3),
        "avx2": (EXTENDED, EBX, 5),
        "bmi2": (EXTENDED, EBX, 8),
        "avx512f": (EXTENDED, EBX, 16),
        "avx512dq": (EXTENDED, EBX, 17),
        "avx512bw": (EXTENDED, EBX, 30),
        "avx512vl": (EXTENDED, EBX, 31),
        "avx512vnni": (EXTENDED, ECX, 11),
        "amx-tile": (EXTENDED, EDX, 24),
        "amx-int8": (EXTENDED, EDX, 25),
        "avxvnni": (FURTHER, EAX, 4),
    }
)
"""Where ``cpuid`` has a feature: the leaf, the register of its answer, the bit."""
WITHOUT_WIDE_REGISTERS = frozenset({"ssse3", "sse4.1", "sse4.2", "popcnt", "bmi", "bmi2"})
SYSTEM_SAVES = (BASIC, ECX, 27)
"""The bit that says that the system's word on registers can be read."""
AVX_REGISTERS, AVX512_REGISTERS, TILE_REGISTERS = 0x06, 0xE6, 0x60000
"""What of the registers the system must save when it switches threads."""

ANSWER_CODE = bytes.fromhex("0fa2 418900 41895804 41894808 4189500c 5b c3")
"""cpuid; its four answers to where r8 points; pop rbx; ret."""
UNIX_CODE = bytes.fromhex("53 4989d0 89f8 89f1") + ANSWER_CODE
"""push rbx; r8, eax, ecx from rdx, edi, esi, where Linux and macOS pass arguments."""
WINDOWS_CODE = bytes.fromhex("53 89c8 89d1") + ANSWER_CODE
"""push rbx; eax, ecx from ecx, edx, where Windows passes arguments, and r8 as it is."""
SAVED_CODE = bytes.fromhex("31c9 0f01d0 c3")
"""What the system saves: xgetbv of register 0."""
SAVED_AT = 64
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18
"""Linux's call, its ``ARCH_REQ_XCOMP_PERM``, and the number of the registers' contents."""
ARM_DOTPROD_BIT, HARDWARE_CAPABILITIES = 20, 16
"""In what Linux tells programs of the processor when it starts them."""
WINDOWS_ARM_DOTPROD = 43


def host_features() -> frozenset[str]:
    """LLVM's names of the features that tiers may ask for; KernelError if no code can run.

    On Linux this asks for tile registers where the CPU has them, for the whole process and its
    children. It refuses while any thread has a small stack for signals, and lets none have one
    afterwards.
    """
    if is_x86():
        return _x86_features()
    return _arm_features() if platform.machine().lower() in ARM_MACHINES else frozenset()


def is_x86() -> bool:
    """Whether this process runs code of x86-64."""
    return platform.machine().lower() in X86_MACHINES


def features_of(ask: Callable[[Leaf], Registers], saved: int, is_mac: bool) -> frozenset[str]:
    """Features by what ``cpuid`` answers; ``saved``: the registers that the system saves."""
    highest = ask((0, 0))[EAX]
    further = ask(EXTENDED)[EAX] if highest >= EXTENDED[0] else 0
    answers = {
        leaf: ask(leaf) if highest >= leaf[0] and further >= leaf[1] else (0, 0, 0, 0)
        for leaf in (BASIC, EXTENDED, FURTHER)
    }
    found = {
        name
        for name, (leaf, register, bit) in FEATURE_BITS.items()
        if answers[leaf][register] >> bit & 1
    }
    if saved & AVX_REGISTERS != AVX_REGISTERS:
        return frozenset(found & WITHOUT_WIDE_REGISTERS)
    # macOS saves those of AVX-512 from their first use on.
    if saved & AVX512_REGISTERS != AVX512_REGISTERS and not is_mac:
        found = {name for name in found if not name.startswith("avx512")}
    if saved & TILE_REGISTERS != TILE_REGISTERS:
        found = {name for name in found if not name.startswith("amx")}
    return frozenset(found)


def _x86_features() -> frozenset[str]:
    memory = ExecutableMemory(1)
    code = WINDOWS_CODE if sys.platform == "win32" else UNIX_CODE
    memory.fill(code.ljust(SAVED_AT, b"\xcc") + SAVED_CODE, memory.num_bytes)
    number = ctypes.c_uint32
    call = ctypes.CFUNCTYPE(None, number, number, ctypes.c_void_p)(memory.address)
    read_saved = ctypes.CFUNCTYPE(number)(memory.address + SAVED_AT)

    def ask(leaf: Leaf) -> Registers:
        answer = (number * 4)()
        call(*leaf, ctypes.addressof(answer))
        return answer[EAX], answer[EBX], answer[ECX], answer[EDX]

    leaf, register, bit = SYSTEM_SAVES
    saved = read_saved() if ask(leaf)[register] >> bit & 1 else 0
    if saved & TILE_REGISTERS and not _may_use_tiles():
        saved &= ~TILE_REGISTERS
    return features_of(ask, saved, is_mac=sys.platform == "darwin")


def _may_use_tiles() -> bool:
    """Whether this process may use tile registers from now on: Linux wants to be asked for them."""
    if not sys.platform.startswith("linux"):
        return False
    answer: int = ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)
    return answer == 0


def _arm_features() -> frozenset[str]:
    if sys.platform == "darwin":
        return APPLE_FEATURES
    elif sys.platform == "win32":
        has_dotprod = ctypes.WinDLL("kernel32").IsProcessorFeaturePresent(WINDOWS_ARM_DOTPROD)
    else:
        told = ctypes.CDLL(None).getauxval
        told.argtypes, told.restype = (ctypes.c_ulong,), ctypes.c_ulong
        has_dotprod = told(HARDWARE_CAPABILITIES) >> ARM_DOTPROD_BIT & 1
    return frozenset({"neon", "dotprod"} if has_dotprod else {"neon"})
