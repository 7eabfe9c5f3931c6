"""PTX text as instructions with operands; what they do is left to others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from ptx_machine.faults import PtxFault


@dataclass(frozen=True)
class Register:
    """One of the kernel's registers; a predicate has one bit."""

    name: str
    index: int
    bits: int


@dataclass(frozen=True)
class Immediate:
    """A constant, as the bits of an integer; those of a float are its 32."""

    value: int


@dataclass(frozen=True)
class Special:
    """A number that the machine knows, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A label, a parameter or a variable."""

    name: str


@dataclass(frozen=True)
class Address:
    """What stands in brackets."""

    base: Register | Symbol
    offset: int


@dataclass(frozen=True)
class Vector:
    """Registers in braces."""

    parts: tuple[Register, ...]


Operand: TypeAlias = "Register | Immediate | Special | Symbol | Address | Vector"


@dataclass(frozen=True)
class Instruction:
    """One instruction. ``guard`` is a predicate and whether it must be false."""

    opcode: str
    operands: tuple[Operand, ...]
    line: int
    text: str
    guard: tuple[Register, bool] | None = None


@dataclass
class Entry:
    """A kernel that can be launched: instructions, and at which of them labels stand."""

    name: str
    parameters: dict[str, str]
    target: str
    max_threads: int | None = None
    registers: list[Register] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    shared: str | None = None


HEADER = re.compile(r"\.visible\s+\.entry\s+(\w+)\s*\((.*?)\)(.*?)\{", re.DOTALL)
PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(\w+)\s*$")
SHARED = re.compile(r"\.extern\s+\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[\]\s*;")
DECLARED = re.compile(r"\.reg\s+\.(pred|b16|b32|b64)\s+(%?\w+)(?:<(\d+)>)?$")
LABEL = re.compile(r"([\w$]+):")
GUARDED = re.compile(r"@(!?)(%\w+)\s+(.*)", re.DOTALL)
BITS = {"pred": 1, "b16": 16, "b32": 32, "b64": 64}
MODULE_DIRECTIVE = re.compile(r"^\s*\.(version|target|address_size)\s+(\S+)\s*$", re.MULTILINE)


def parse(text: str) -> dict[str, Entry]:
    """All kernels of a PTX text by name. PtxFault for what is not understood."""
    text = re.sub(r"//[^\n]*", "", text)
    directives = dict(MODULE_DIRECTIVE.findall(text))
    if directives.get("address_size") != "64" or not {"version", "target"} <= set(directives):
        raise PtxFault(f"a text with {directives}")
    shared = SHARED.search(text)
    found = {}
    for header in HEADER.finditer(text):
        entry = Entry(header[1], _parameters(header[2]), directives["target"])
        threads = re.search(r"\.maxntid\s+(\d+)", header[3])
        entry.max_threads = int(threads[1]) if threads else None
        entry.shared = shared[2] if shared else None
        _Body(entry, text, header.end()).read()
        found[entry.name] = entry
    if not found:
        raise PtxFault("a text without an entry")
    return found


def _parameters(text: str) -> dict[str, str]:
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = PARAMETER.match(part)
        if match is None:
            raise PtxFault(f"parameter {part}")
        found[match[2]] = match[1]
    return found


class _Body:
    """Reads a kernel's body statement by statement; braces are scopes of registers."""

    def __init__(self, entry: Entry, text: str, start: int) -> None:
        self._entry, self._text, self._at = entry, text, start
        self._scopes: list[dict[str, Register]] = [{}]
        self._line = text.count("\n", 0, start) + 1

    def read(self) -> None:
        """All up to the brace that closes the body."""
        for line, statement in self._statements():
            if statement.startswith(".reg"):
                self._declare(statement)
            elif statement.startswith("."):
                if not statement.startswith(".pragma"):
                    raise PtxFault(f"line {line}: {statement}")
            else:
                self._entry.instructions.append(self._instruction(line, statement))

    def _statements(self) -> Iterator[tuple[int, str]]:
        text = self._text
        while True:
            while text[self._at].isspace():
                self._skip(1)
            label = LABEL.match(text, self._at)
            if text[self._at] == "{":
                self._scopes.append({})
                self._skip(1)
            elif text[self._at] == "}":
                self._scopes.pop()
                self._skip(1)
                if not self._scopes:
                    return
            elif label:
                self._entry.labels[label[1]] = len(self._entry.instructions)
                self._skip(len(label[0]))
            else:
                end = text.index(";", self._at)
                line, statement = self._line, text[self._at : end]
                self._skip(end + 1 - self._at)
                yield line, " ".join(statement.split())

    def _skip(self, count: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _declare(self, statement: str) -> None:
        match = DECLARED.match(statement)
        if match is None:
            raise PtxFault(f"{statement}")
        names = [f"{match[2]}{i}" for i in range(int(match[3]))] if match[3] else [match[2]]
        for name in names:
            register = Register(name, len(self._entry.registers), BITS[match[1]])
            self._entry.registers.append(register)
            self._scopes[-1][name] = register

    def _instruction(self, line: int, statement: str) -> Instruction:
        guard, rest = None, statement
        if match := GUARDED.match(statement):
            guard, rest = (self._register(match[2]), match[1] == "!"), match[3]
        opcode, _, operands = rest.partition(" ")
        try:
            parts = tuple(self._operand(part) for part in split_operands(operands))
        except (KeyError, ValueError) as error:
            raise PtxFault(f"line {line}: {statement}: {error}") from error
        return Instruction(opcode, parts, line, statement, guard)

    def _register(self, name: str) -> Register:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise KeyError(name)

    def _operand(self, text: str) -> Operand:
        if text.startswith("["):
            base, _, offset = text[1:-1].partition("+")
            found = self._operand(base)
            if not isinstance(found, Register | Symbol):
                raise ValueError(text)
            return Address(found, int(offset or 0))
        if text.startswith("{"):
            return Vector(tuple(self._register(part) for part in split_operands(text[1:-1])))
        if text[0].isdigit() or text[0] == "-":
            return Immediate(_constant(text))
        if text.startswith("%") and "." in text:
            return Special(text)
        try:
            return self._register(text)
        except KeyError:
            if text.startswith("%"):
                raise
            return Symbol(text)


def _constant(text: str) -> int:
    if text[:2] == "0f":
        return int(text[2:], 16)
    return int(text.removesuffix("U"), 0)


def split_operands(text: str) -> list[str]:
    """Parts between commas that are in no braces."""
    parts = re.findall(r"(?:\{[^}]*\}|[^,{])+", text)
    return [part.strip() for part in parts if part.strip()]
