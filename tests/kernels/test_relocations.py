"""The arithmetic of relocations, against instructions as both machines' manuals spell them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.kernels_cpu.compiling.relocations import AARCH64, KINDS, X86_64
from edgellama.quant.errors import KernelError

ADDRESSES = st.integers(0, (1 << 47) - 1)
BY_NAME = {kind.name: kind for kinds in KINDS.values() for kind in kinds.values()}


def patched(name: str, stored: int, target: int, place: int) -> int:
    """What a relocation, by its name behind R_, makes of what is stored."""
    return BY_NAME[f"R_{name}"].patch(stored, target, place)


@pytest.mark.parametrize(
    ("name", "stored", "target", "place", "expected"),
    [
        ("X86_64_64", 0, 0x7F0012345678, 0x1000, 0x7F0012345678),
        ("X86_64_PC32", 0, 0x1100, 0x1000, 0x100),
        ("X86_64_PC32", 0, 0x0FFC, 0x1000, 0xFFFFFFFC),
        ("X86_64_PLT32", 0, 0x80000FFF, 0x1000, 0x7FFFFFFF),
        ("X86_64_PC64", 0, 0x1000, 0x7F0000001000, 0xFFFF810000000000),
        ("AARCH64_ABS64", 0, 0x7F0012345678, 0x1000, 0x7F0012345678),
        ("AARCH64_PREL32", 0, 0x0FF0, 0x1000, 0xFFFFFFF0),
        ("AARCH64_ADR_PREL_PG_HI21", 0x90000001, 0x4010, 0x1FFC, 0xF0000001),  # adrp x1, 3 pages
        ("AARCH64_ADR_PREL_PG_HI21", 0x90000000, 0x0FFF, 0x1000, 0xF0FFFFE0),  # adrp x0, -1 page
        ("AARCH64_ADD_ABS_LO12_NC", 0x91000000, 0x12345678, 0, 0x9119E000),  # add x0, x0, 0x678
        ("AARCH64_LDST8_ABS_LO12_NC", 0x39400020, 0x12345679, 0, 0x3959E420),
        ("AARCH64_LDST16_ABS_LO12_NC", 0x79400020, 0x12345678, 0, 0x794CF020),
        ("AARCH64_LDST32_ABS_LO12_NC", 0xB9400020, 0x12345678, 0, 0xB9467820),
        ("AARCH64_LDST64_ABS_LO12_NC", 0xF9400020, 0x12345678, 0, 0xF9433C20),
        ("AARCH64_LDST128_ABS_LO12_NC", 0x3DC00020, 0x12345670, 0, 0x3DC19C20),
        ("AARCH64_CALL26", 0x94000000, 0x1008, 0x1000, 0x94000002),  # bl 8
        ("AARCH64_JUMP26", 0x14000000, 0x0FFC, 0x1000, 0x17FFFFFF),  # b -4
    ],
)
def test_instructions(name: str, stored: int, target: int, place: int, expected: int) -> None:
    """Each kind writes the field that its instruction has, and nothing else."""
    assert patched(name, stored, target, place) == expected


@pytest.mark.parametrize(
    ("name", "target", "place", "message"),
    [
        ("X86_64_PC32", 0x80001000, 0x1000, "does not fit 32 bits"),
        ("X86_64_PC32", 0, 0x80000001, "does not fit 32 bits"),
        ("AARCH64_PREL32", 1 << 40, 0, "does not fit 32 bits"),
        ("AARCH64_ADR_PREL_PG_HI21", 1 << 32, 0, "does not fit 21 bits"),
        ("AARCH64_CALL26", 1 << 27, 0, "does not fit 26 bits"),
        ("AARCH64_CALL26", 6, 0, "whole instructions"),
        ("AARCH64_LDST128_ABS_LO12_NC", 0x678, 0, "load of 16 bytes from 0x678"),
        ("AARCH64_LDST16_ABS_LO12_NC", 0x679, 0, "load of 2 bytes from 0x679"),
    ],
)
def test_what_does_not_fit(name: str, target: int, place: int, message: str) -> None:
    """A distance that its field cannot hold is refused, not cut."""
    with pytest.raises(KernelError, match=message):
        patched(name, 0, target, place)


def signed(value: int, bits: int) -> int:
    """A field as the processor reads it."""
    return value - (1 << bits) if value >> (bits - 1) else value


@given(target=ADDRESSES, page=st.integers(-(1 << 20), (1 << 20) - 1), register=st.integers(0, 31))
def test_pairs_of_arm_reach_their_target(target: int, page: int, register: int) -> None:
    """What adrp and add compute is the target, whatever the place of adrp within reach."""
    place = (target & ~0xFFF) - (page << 12) + 0x124
    adrp = patched("AARCH64_ADR_PREL_PG_HI21", 0x90000000 | register, target, place)
    add = patched("AARCH64_ADD_ABS_LO12_NC", 0x91000000 | register, target, place + 4)
    pages = signed((adrp >> 5 & 0x7FFFF) << 2 | adrp >> 29 & 3, 21)
    assert adrp & 31 == add & 31 == register and adrp >> 31 == 1
    assert (place & ~0xFFF) + (pages << 12) + (add >> 10 & 0xFFF) == target


@given(place=ADDRESSES, distance=st.integers(-(1 << 31), (1 << 31) - 1))
def test_distances_of_x86(place: int, distance: int) -> None:
    """A distance of 32 bits is what the processor adds to reach the target."""
    assert signed(patched("X86_64_PC32", 0, place + distance, place), 32) == distance


@given(place=ADDRESSES, distance=st.integers(-(1 << 25), (1 << 25) - 1))
def test_branches_of_arm(place: int, distance: int) -> None:
    """A branch of 26 bits keeps its operation and reaches its target."""
    word = patched("AARCH64_CALL26", 0x94000000, 4 * (place + distance), 4 * place)
    assert word >> 26 == 0x94000000 >> 26
    assert signed(word & 0x3FFFFFF, 26) == distance


def test_every_kind_is_tested() -> None:
    """Kinds have the bytes of what they change: instructions of Arm have four."""
    for machine, kinds in KINDS.items():
        prefix = {X86_64: "R_X86_64_", AARCH64: "R_AARCH64_"}[machine]
        for kind in kinds.values():
            assert kind.name.startswith(prefix)
            assert kind.num_bytes == (8 if kind.name.endswith("64") else 4)
