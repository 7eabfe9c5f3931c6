"""Reads an object file of compiled kernels: its sections, symbols and relocations, all checked.

The file is untrusted: every offset, size and number is compared with what is there, and whatever
kernels do not have (variables, other machines' code, unknown relocations) is refused. Placing
sections in memory is left to ``code_loader``.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator, Sequence

from edgellama.kernels_cpu.compiling.relocations import AARCH64, KINDS, X86_64, RelocationKind
from edgellama.quant.errors import KernelError
from edgellama.quant.records import dataclass

FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")
IDENTIFICATION = b"\x7fELF\x02\x01\x01"
"""64 bits, little-endian, version 1."""
RELOCATABLE = 1
PROGBITS, SYMTAB, STRTAB, RELA, REL, UNWIND = 1, 2, 3, 4, 9, 0x70000001
IS_WRITABLE, IS_LOADED, IS_CODE, OTHER_KINDS = 1, 2, 4, 0xC00
"""Flags of sections; the last are variables of threads, and compressed ones."""
UNDEFINED, LOCAL = 0, 0
MAX_SECTIONS, MAX_ALIGNMENT = 1024, 4096
EXTERNAL_FUNCTIONS = frozenset({"memcpy", "memmove", "memset", "bzero", "__bzero", "__chkstk"})
"""What code may call outside itself: LLVM's copies, macOS's zeros, Windows' large frames."""
MACHINES = {"x86_64": X86_64, "amd64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}


@dataclass(frozen=True)
class Section:
    """Bytes to be loaded, at a multiple of ``alignment``."""

    content: bytes
    alignment: int
    is_code: bool


@dataclass(frozen=True)
class Symbol:
    """A place in a section, or what the system must have under this name where it is None."""

    name: str
    section: int | None
    offset: int


@dataclass(frozen=True)
class Relocation:
    """A place in a section that must point ``addend`` bytes behind a symbol."""

    kind: RelocationKind
    section: int
    offset: int
    symbol: Symbol
    addend: int


@dataclass(frozen=True)
class ElfObject:
    """What of the object file in ``content`` is loaded; its ``functions`` are global symbols."""

    content: bytes
    machine: int
    sections: tuple[Section, ...]
    functions: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]

    @classmethod
    def parse(cls, content: bytes, name: str, machine: int | None = None) -> ElfObject:
        """The object in ``content``, for this machine unless another is given.

        Raises KernelError for anything but a whole object file with the kernel called ``name``.
        """
        found = _Reader(content, this_machine() if machine is None else machine).object()
        if not any(function.name == name for function in found.functions):
            raise _refused(f"it has no function {name!r}")
        return found


def this_machine() -> int:
    """ELF's number of the machine that runs this; KernelError if no kernels run on it."""
    name = platform.machine().lower()
    if name not in MACHINES:
        raise KernelError(f"machine {name!r} runs no kernels; known: {', '.join(MACHINES)}")
    return MACHINES[name]


@dataclass(frozen=True)
class _Header:
    """A section's header, as ELF has it."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Reader:
    """Walks one object file; every read is within its bounds."""

    def __init__(self, content: bytes, machine: int) -> None:
        self._content, self._machine = content, machine
        self._headers = self._read_headers()
        self._places: dict[int, int] = {}
        self._sections: list[Section] = []

    def object(self) -> ElfObject:
        """All of it."""
        for number, header in enumerate(self._headers):
            if header.flags & IS_LOADED and header.kind != UNWIND:
                self._places[number] = len(self._sections)
                self._sections.append(self._section(number, header))
        tables = [header for header in self._headers if header.kind == SYMTAB]
        if len(tables) != 1:
            raise _refused(f"{len(tables)} tables of symbols; allowed: 1")
        symbols = list(self._symbols(tables[0]))
        functions = (symbol for bind, symbol in symbols if bind and symbol.section is not None)
        return ElfObject(
            self._content,
            self._machine,
            tuple(self._sections),
            tuple(symbol for symbol in functions if symbol.name),
            tuple(self._relocations([symbol for _, symbol in symbols])),
        )

    def _read_headers(self) -> Sequence[_Header]:
        content = self._content
        if len(content) < FILE_HEADER.size:
            raise _refused(f"{len(content)} bytes; a header has {FILE_HEADER.size}")
        (identification, kind, machine, _, _, _, at, *_, entry_size, count, _) = (
            FILE_HEADER.unpack_from(content)
        )
        if not identification.startswith(IDENTIFICATION) or kind != RELOCATABLE:
            raise _refused(f"it begins with {content[:18].hex()}, which is no 64-bit object")
        if machine != self._machine:
            raise _refused(f"code for machine {machine}; this one is {self._machine}")
        if entry_size != SECTION_HEADER.size or not 0 < count <= MAX_SECTIONS:
            raise _refused(f"{count} sections with headers of {entry_size} bytes")
        headers = self._bytes(at, count * SECTION_HEADER.size)
        return [_Header(*fields) for fields in SECTION_HEADER.iter_unpack(headers)]

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > len(self._content):
            raise _refused(f"{size} bytes at {at}; the file has {len(self._content)}")
        return self._content[at : at + size]

    def _section(self, number: int, header: _Header) -> Section:
        if header.kind != PROGBITS or header.flags & (IS_WRITABLE | OTHER_KINDS):
            raise _refused(
                f"section {number} of kind {header.kind} with flags {header.flags:#x}; kernels "
                f"have code and constants alone"
            )
        alignment = max(header.alignment, 1)
        if alignment & (alignment - 1) or alignment > MAX_ALIGNMENT:
            raise _refused(f"section {number} aligned to {alignment}; at most {MAX_ALIGNMENT}")
        content = self._bytes(header.offset, header.size)
        return Section(content, alignment, bool(header.flags & IS_CODE))

    def _symbols(self, table: _Header) -> Iterator[tuple[int, Symbol]]:
        """Every symbol with its binding; those that nothing may point at have no name either."""
        strings = self._linked(table, STRTAB)
        names = self._bytes(strings.offset, strings.size)
        for fields in self._table(SYMBOL, table):
            name_at, info, _, section, offset, _ = fields
            binding, place = info >> 4, self._places.get(section)
            if place is not None:
                if offset > len(self._sections[place].content):
                    raise _refused(f"a symbol at {offset}, behind its section")
                yield (
                    binding,
                    Symbol("" if binding == LOCAL else _name(names, name_at), place, offset),
                )
            else:
                yield (
                    binding,
                    Symbol(_name(names, name_at) if section == UNDEFINED else "", None, 0),
                )

    def _relocations(self, symbols: Sequence[Symbol]) -> Iterator[Relocation]:
        for header in self._headers:
            if header.kind == REL:
                raise _refused("relocations without addends")
            if header.kind == RELA and header.info in self._places:
                place = self._places[header.info]
                for offset, info, addend in self._table(RELOCATION, header):
                    yield self._relocation(place, offset, info, addend, symbols)

    def _table(self, entry: struct.Struct, header: _Header) -> Iterator[tuple[int, ...]]:
        if header.size % entry.size:
            raise _refused(f"a table of {header.size} bytes, in entries of {entry.size}")
        return entry.iter_unpack(self._bytes(header.offset, header.size))

    def _relocation(
        self, place: int, offset: int, info: int, addend: int, symbols: Sequence[Symbol]
    ) -> Relocation:
        number, index = info & 0xFFFFFFFF, info >> 32
        kind = KINDS[self._machine].get(number)
        if kind is None:
            raise _refused(f"relocation of kind {number}, which kernels do not have")
        if offset + kind.num_bytes > len(self._sections[place].content):
            raise _refused(f"{kind.name} at {offset}, behind its section")
        if not 0 < index < len(symbols):
            raise _refused(f"{kind.name} to symbol {index} of {len(symbols)}")
        symbol = symbols[index]
        if symbol.section is None and symbol.name not in EXTERNAL_FUNCTIONS:
            raise _refused(f"it needs {symbol.name!r}; allowed: {sorted(EXTERNAL_FUNCTIONS)}")
        return Relocation(kind, place, offset, symbol, addend)

    def _linked(self, header: _Header, kind: int) -> _Header:
        if header.link >= len(self._headers) or self._headers[header.link].kind != kind:
            raise _refused(f"a section that belongs to {header.link}, which is not of kind {kind}")
        return self._headers[header.link]


def _name(names: bytes, at: int) -> str:
    end = names.find(b"\0", at)
    if at >= len(names) or end < 0:
        raise _refused(f"a name at {at} of {len(names)} bytes")
    return names[at:end].decode("ascii", "replace")


def _refused(what: str) -> KernelError:
    return KernelError(f"not an object file of kernels: {what}")
