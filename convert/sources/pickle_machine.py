"""Reads a pickle without running it: opcodes build plain values, and names mean what we say.

It knows the opcodes that torch files are written with, and refuses all others. ``torch_pickle``
says which names are allowed, and what they stand for. Python's own unpickler is not used: even if
it is restricted to a few names, a pickle can make it exhaust memory or the stack.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from edgellama.quant.error_text import MAX_SHOWN_CHARACTERS, file_error, shown

MAX_PICKLE_BYTES = 8 << 20
MAX_OPERATIONS = 500_000  # about 45 a tensor; each makes one small object at most
MAX_NAME_BYTES = 256
MAX_KEY = 1 << 20


Outside = TypeVar("Outside")


class PickleRefused(Exception):
    """What a pickle holds and what is allowed instead; becomes a ModelFileError with the path."""

    def __init__(self, what: str, allowed: str) -> None:
        super().__init__(what, allowed)
        self.what = what
        self.allowed = allowed


@dataclass(frozen=True, eq=False)
class Name:
    """Stands in for a class or function that a pickle may name.

    ``call`` makes the value of calling it and allocates no more than one small object;
    None if it may only be named.
    """

    text: str
    call: Callable[[tuple[object, ...]], object] | None = None


@dataclass(frozen=True)
class PickleScope(Generic[Outside]):
    """What a pickle may refer to: ``names`` by "module.name", and values kept outside it."""

    names: Mapping[str, Name]
    persistent: Callable[[object], Outside]
    purpose: str


def read_pickle(
    path: Path, buffer: bytes | mmap, start: int, scope: PickleScope[Outside]
) -> tuple[object, int]:
    """The value of the pickle at ``start`` in ``buffer``, and where it ends.

    Raises ModelFileError, naming ``path``, for whatever ``scope`` does not hold and for
    opcodes that torch does not write. Nothing that the pickle names is imported or called.
    """
    machine = _Machine(buffer, start, scope)
    try:
        return machine.run(), machine.position
    except PickleRefused as refusal:
        what, allowed = refusal.what, refusal.allowed
    except (IndexError, KeyError, TypeError, struct.error):
        what, allowed = f"the pickle is damaged before byte {machine.position}", "whole pickles"
    raise file_error(path, what, allowed)


class _Machine:
    """A stack, a memo and a position; one method an opcode.

    Whatever a damaged pickle does wrong with them raises IndexError, KeyError, TypeError or
    struct.error.
    """

    def __init__(self, buffer: bytes | mmap, start: int, scope: PickleScope[Any]) -> None:
        self._buffer = buffer
        self._limit = min(len(buffer), start + MAX_PICKLE_BYTES)
        self._scope = scope
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self.position = start

    def run(self) -> object:
        """Execute up to and with STOP."""
        for _ in range(MAX_OPERATIONS):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                return self._stack.pop()
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise PickleRefused(
                    f"the pickle uses opcode {_opcode_name(opcode)}", self._scope.purpose
                )
            handler(self)
        raise PickleRefused("the pickle does not end", f"{MAX_OPERATIONS} operations")

    def _take(self, num_bytes: int) -> bytes:
        start = self.position
        if num_bytes > self._limit - start:
            raise PickleRefused(
                f"the pickle runs past the end, {num_bytes} bytes at byte {start}",
                f"{self._limit} bytes",
            )
        self.position = start + num_bytes
        return self._buffer[start : self.position]

    def _number(self, code: str) -> int:
        number: int
        (number,) = struct.unpack(code, self._take(struct.calcsize(code)))
        return number

    def _line(self) -> str:
        end = self._buffer.find(b"\n", self.position, self.position + MAX_NAME_BYTES)
        if end < 0:
            raise IndexError
        line = self._take(end - self.position)
        self._take(1)
        return line.decode("utf-8", "backslashreplace")

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop_to_mark(self) -> list[object]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _refer(self, module: object, name: object) -> None:
        """Push what stands in for a name."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        text = f"{module}.{name}"
        known = self._scope.names.get(text)
        if known is None:
            raise PickleRefused(f"the pickle names {_plain(text)}", self._scope.purpose)
        self._push(known)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def skip(self, num_bytes: int) -> None:
        self._take(num_bytes)

    def constant(self, value: object) -> None:
        self._push(value)

    def number(self, code: str) -> None:
        self._push(self._number(code))

    def long(self) -> None:
        self._push(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def text(self, code: str) -> None:
        raw = self._take(self._number(code))
        self._push(raw.decode("utf-8", "surrogateescape"))

    def put(self, code: str) -> None:
        self._memo[self._number(code)] = self._stack[-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, code: str) -> None:
        self._push(self._memo[self._number(code)])

    def empty_dict(self) -> None:
        self._push({})

    def empty_list(self) -> None:
        self._push([])

    def tuple_of(self, count: int) -> None:
        if count > len(self._stack):
            raise IndexError
        start = len(self._stack) - count
        items = tuple(self._stack[start:])
        del self._stack[start:]
        self._push(items)

    def tuple_to_mark(self) -> None:
        self._push(tuple(self._pop_to_mark()))

    def append(self) -> None:
        self._extend([self._stack.pop()])

    def appends(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target.extend(items)

    def set_item(self) -> None:
        value = self._stack.pop()
        self._update([self._stack.pop(), value])

    def set_items(self) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing tuples in tuples can exhaust the stack, and large numbers be made to collide.
            if not isinstance(key, str) and not (isinstance(key, int) and 0 <= key < MAX_KEY):
                raise PickleRefused(
                    f"the pickle has a key {shown(key)}", f"text, and numbers below {MAX_KEY}"
                )
            target[key] = value

    def name(self) -> None:
        module = self._line()
        self._refer(module, self._line())

    def name_on_stack(self) -> None:
        name = self._stack.pop()
        self._refer(self._stack.pop(), name)

    def instance(self) -> None:
        """INST names a class as GLOBAL does, so that it is refused by name; torch never uses it."""
        self.name()
        raise PickleRefused("the pickle uses opcode INST", self._scope.purpose)

    def reduce(self) -> None:
        arguments = self._stack.pop()
        name = self._stack.pop()
        if not isinstance(arguments, tuple) or not isinstance(name, Name):
            raise TypeError
        if name.call is None:
            raise PickleRefused(f"the pickle calls {name.text}", self._scope.purpose)
        self._push(name.call(arguments))

    def build(self) -> None:
        """Drop the state: attributes of a dictionary or a parameter, which say nothing of it."""
        self._stack.pop()
        if isinstance(self._stack[-1], Name):
            raise TypeError

    def persistent(self) -> None:
        self._push(self._scope.persistent(self._stack.pop()))


def _plain(text: str) -> str:
    """``text`` without quotes where it is a plain dotted name."""
    is_plain = text.replace(".", "a").isidentifier() and text.isascii()
    return text if is_plain and len(text) <= MAX_SHOWN_CHARACTERS else shown(text)


def _opcode_name(opcode: bytes) -> str:
    import pickletools

    names = {known.code.encode("latin-1"): known.name for known in pickletools.opcodes}
    return names.get(opcode, shown(opcode))


_Handler = Callable[[_Machine], None]


def _with(method: Callable[..., None], argument: object) -> _Handler:
    return lambda machine: method(machine, argument)


_HANDLERS: Mapping[bytes, _Handler] = MappingProxyType(
    {
        pickle.PROTO: _with(_Machine.skip, 1),
        pickle.FRAME: _with(_Machine.skip, 8),
        pickle.MARK: _Machine.mark,
        pickle.NONE: _with(_Machine.constant, None),
        pickle.NEWTRUE: _with(_Machine.constant, True),
        pickle.NEWFALSE: _with(_Machine.constant, False),
        pickle.EMPTY_TUPLE: _with(_Machine.constant, ()),
        pickle.BININT: _with(_Machine.number, "<i"),
        pickle.BININT1: _with(_Machine.number, "<B"),
        pickle.BININT2: _with(_Machine.number, "<H"),
        pickle.BINFLOAT: _with(_Machine.number, ">d"),
        pickle.LONG1: _Machine.long,
        pickle.BINUNICODE: _with(_Machine.text, "<I"),
        pickle.SHORT_BINUNICODE: _with(_Machine.text, "<B"),
        pickle.SHORT_BINSTRING: _with(_Machine.text, "<B"),
        pickle.BINPUT: _with(_Machine.put, "<B"),
        pickle.LONG_BINPUT: _with(_Machine.put, "<I"),
        pickle.MEMOIZE: _Machine.memoize,
        pickle.BINGET: _with(_Machine.get, "<B"),
        pickle.LONG_BINGET: _with(_Machine.get, "<I"),
        pickle.EMPTY_DICT: _Machine.empty_dict,
        pickle.EMPTY_LIST: _Machine.empty_list,
        pickle.TUPLE: _Machine.tuple_to_mark,
        pickle.TUPLE1: _with(_Machine.tuple_of, 1),
        pickle.TUPLE2: _with(_Machine.tuple_of, 2),
        pickle.TUPLE3: _with(_Machine.tuple_of, 3),
        pickle.APPEND: _Machine.append,
        pickle.APPENDS: _Machine.appends,
        pickle.SETITEM: _Machine.set_item,
        pickle.SETITEMS: _Machine.set_items,
        pickle.GLOBAL: _Machine.name,
        pickle.STACK_GLOBAL: _Machine.name_on_stack,
        pickle.INST: _Machine.instance,
        pickle.REDUCE: _Machine.reduce,
        pickle.BUILD: _Machine.build,
        pickle.BINPERSID: _Machine.persistent,
    }
)
