"""Loads object files into memory: places their sections side by side, and joins them.

Code comes first, then jumps to functions of the system, if any are called, then constants from the
next page on. All of it is one piece, so that distances fit 32 bits. What an object file is, is
known to ``elf_object``; how pages become executable, to ``machine/executable_memory``.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable, Mapping

from edgellama.kernels_cpu.compiling.elf_object import ElfObject, Symbol
from edgellama.kernels_cpu.compiling.relocations import STUBS
from edgellama.kernels_cpu.layouts import CACHE_LINE
from edgellama.kernels_cpu.machine.executable_memory import ExecutableMemory
from edgellama.quant.errors import KernelError
from edgellama.quant.records import dataclass

ADDRESS_BYTES = 8
Resolve = Callable[[str], int]
"""The address of a function of the system by its name."""


@dataclass(frozen=True)
class Layout:
    """Where everything of some objects lies, in bytes from the start of one piece of memory."""

    objects: tuple[ElfObject, ...]
    sections: tuple[tuple[int, ...], ...]
    stubs: Mapping[str, int]
    code_bytes: int
    num_bytes: int

    @classmethod
    def of(cls, objects: Iterable[ElfObject]) -> Layout:
        """A place for every section, and for a jump to every function of the system."""
        held = tuple(objects)
        places: dict[tuple[int, int], int] = {}
        stubs = sorted({relocation.symbol.name for item in held for relocation in item.relocations
                        if relocation.symbol.section is None})  # fmt: skip
        end = _place(held, 0, places, is_code=True)
        stub_places = {}
        for name in stubs:
            stub_places[name] = end = _round_up(end, 2 * ADDRESS_BYTES)
            end += 2 * ADDRESS_BYTES
        code_bytes = _round_up(end, mmap.PAGESIZE)
        end = _place(held, code_bytes, places, is_code=False)
        sections = tuple(
            tuple(places[number, section] for section in range(len(item.sections)))
            for number, item in enumerate(held)
        )
        return cls(held, sections, stub_places, code_bytes, max(end, 1))

    def image(self, base: int, resolve: Resolve) -> bytearray:
        """All bytes as they must stand at the address ``base``; KernelError if some do not fit."""
        image = bytearray(self.num_bytes)
        for item, places in zip(self.objects, self.sections, strict=True):
            for section, place in zip(item.sections, places, strict=True):
                image[place : place + len(section.content)] = section.content
            for name, place in self.stubs.items():
                jump = STUBS[item.machine] + resolve(name).to_bytes(ADDRESS_BYTES, "little")
                image[place : place + len(jump)] = jump
        for item, places in zip(self.objects, self.sections, strict=True):
            for relocation in item.relocations:
                start = places[relocation.section] + relocation.offset
                end = start + relocation.kind.num_bytes
                target = base + self._place_of(relocation.symbol, places) + relocation.addend
                stored = int.from_bytes(image[start:end], "little")
                patched = relocation.kind.patch(stored, target, base + start)
                image[start:end] = patched.to_bytes(end - start, "little")
        return image

    def functions(self) -> Mapping[str, int]:
        """The place of every function by its name."""
        return {
            function.name: self._place_of(function, places)
            for item, places in zip(self.objects, self.sections, strict=True)
            for function in item.functions
        }

    def _place_of(self, symbol: Symbol, sections: tuple[int, ...]) -> int:
        if symbol.section is None:
            return self.stubs[symbol.name]
        return sections[symbol.section] + symbol.offset


class LoadedCode:
    """Objects in executable memory, which is held as long as this object."""

    def __init__(self, objects: Iterable[ElfObject]) -> None:
        """Load them; KernelError if they cannot be, or the system forbids it."""
        layout = Layout.of(objects)
        self._memory = ExecutableMemory(layout.num_bytes)
        image = layout.image(self._memory.address, system_function)
        self._memory.fill(image, layout.code_bytes)
        self.num_bytes = layout.num_bytes
        self.addresses = {
            name: self._memory.address + place for name, place in layout.functions().items()
        }


def system_function(name: str) -> int:
    """The address of a function of the C library; KernelError if it has none of this name."""
    library = ctypes.CDLL("ntdll" if sys.platform == "win32" else None)
    function = getattr(library, name, None)
    address = ctypes.cast(function, ctypes.c_void_p).value if function else None
    if not address:
        raise KernelError(f"kernels need {name}, which this system does not have")
    return address


def _place(
    objects: tuple[ElfObject, ...], end: int, places: dict[tuple[int, int], int], *, is_code: bool
) -> int:
    """Note places from ``end`` on for all sections of code, or of constants; their end."""
    for number, item in enumerate(objects):
        for index, section in enumerate(item.sections):
            if section.is_code == is_code:
                # The same speed wherever a kernel comes among others.
                end = _round_up(end, max(section.alignment, CACHE_LINE if is_code else 1))
                places[number, index] = end
                end += len(section.content)
    return end


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
