"""How places in machine code are made to point at their targets, for x86-64 and 64-bit Arm.

Knows the kinds of relocations that compiled kernels have (ELF's numbers) and their arithmetic on
plain integers. Which places and targets there are is told by ``elf_object``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from edgellama.quant.errors import KernelError
from edgellama.quant.records import dataclass

X86_64, AARCH64 = 62, 183
"""Machines, as ELF numbers them."""
PAGE_SHIFT = 12
Patch = Callable[[int, int, int], int]
"""(what stands at the place, the target's address, the place's) to what must stand there."""


@dataclass(frozen=True)
class RelocationKind:
    """One kind: how many bytes it changes, and how."""

    name: str
    num_bytes: int
    patch: Patch


def _absolute(stored: int, target: int, place: int) -> int:
    return target % (1 << 64)


def _relative(bits: int, stored: int, target: int, place: int) -> int:
    return _signed(target - place, bits)


def _page_distance(stored: int, target: int, place: int) -> int:
    """``adrp``: the distance in pages, its two lowest bits apart from the others."""
    pages = _signed((target >> PAGE_SHIFT) - (place >> PAGE_SHIFT), 21)
    fields = (3 << 29) | (0x7FFFF << 5)
    return (stored & ~fields) | ((pages & 3) << 29) | ((pages >> 2) << 5)


def _offset_in_page(shift: int, stored: int, target: int, place: int) -> int:
    """``add``, ``ldr``, ``str``: the offset in its page, in units of what is loaded."""
    offset = target & ((1 << PAGE_SHIFT) - 1)
    if offset % (1 << shift):
        raise KernelError(f"a load of {1 << shift} bytes from {target:#x}, which is not aligned")
    return (stored & ~(0xFFF << 10)) | ((offset >> shift) << 10)


def _branch(stored: int, target: int, place: int) -> int:
    """``b``, ``bl``: the distance in instructions."""
    distance = target - place
    if distance % 4:
        raise KernelError(f"a branch of {distance} bytes; allowed: whole instructions of 4")
    return (stored & ~0x3FFFFFF) | _signed(distance // 4, 26)


def _signed(value: int, bits: int) -> int:
    """Two's complement; KernelError unless it fits."""
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise KernelError(f"a distance of {value} in machine code does not fit {bits} bits")
    return value % (1 << bits)


def _arm_loads() -> Mapping[int, RelocationKind]:
    numbers = {277: ("ADD", 0), 278: ("LDST8", 0), 284: ("LDST16", 1), 285: ("LDST32", 2)}
    numbers |= {286: ("LDST64", 3), 299: ("LDST128", 4)}
    return {
        number: RelocationKind(f"R_AARCH64_{name}_ABS_LO12_NC", 4, partial(_offset_in_page, shift))
        for number, (name, shift) in numbers.items()
    }


KINDS: Mapping[int, Mapping[int, RelocationKind]] = MappingProxyType(
    {
        X86_64: {
            1: RelocationKind("R_X86_64_64", 8, _absolute),
            2: RelocationKind("R_X86_64_PC32", 4, partial(_relative, 32)),
            4: RelocationKind("R_X86_64_PLT32", 4, partial(_relative, 32)),
            24: RelocationKind("R_X86_64_PC64", 8, partial(_relative, 64)),
        },
        AARCH64: {
            257: RelocationKind("R_AARCH64_ABS64", 8, _absolute),
            260: RelocationKind("R_AARCH64_PREL64", 8, partial(_relative, 64)),
            261: RelocationKind("R_AARCH64_PREL32", 4, partial(_relative, 32)),
            275: RelocationKind("R_AARCH64_ADR_PREL_PG_HI21", 4, _page_distance),
            282: RelocationKind("R_AARCH64_JUMP26", 4, _branch),
            283: RelocationKind("R_AARCH64_CALL26", 4, _branch),
            **_arm_loads(),
        },
    }
)
"""By machine and ELF's number."""
STUBS: Mapping[int, bytes] = MappingProxyType(
    {
        X86_64: bytes.fromhex("ff2500000000"),  # jmp [rip]
        AARCH64: bytes.fromhex("5000005800021fd6"),  # ldr x16, #8; br x16
    }
)
"""A jump to the address that follows it: how code reaches functions that are far away."""
