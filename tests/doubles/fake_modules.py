"""The part of the driver's test double that knows code: PTX, its kernels, and their launches."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from doubles.fake_library import INVALID_HANDLE, INVALID_VALUE
from doubles.fake_memory import FakeMemory
from edgellama.cuda.driver import SUCCESS

INVALID_IMAGE, NO_BINARY, INVALID_PTX, UNSUPPORTED_PTX = 200, 209, 218, 222
NOT_FOUND, OUT_OF_RESOURCES = 500, 701
USUAL_SHARED_BYTES = 48 * 1024
"""Of a launch at most, unless the function's attribute says otherwise."""
MOST_THREADS, MOST_BLOCKS = 1024, (2**31 - 1, 65535, 65535)
PTX_VERSIONS = ((11000, 70), (11010, 71), (11020, 72), (11030, 73), (11040, 74), (11080, 78),
                (12000, 80), (12040, 84), (12080, 87), (13000, 90))  # fmt: skip
"""Drivers by their version of CUDA, and the last version of PTX that each takes."""
HEAD = re.compile(r"\.version\s+(\d)\.(\d)\s+\.target\s+sm_(\d+)")
ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)\s*(?:\.maxntid\s+(\d+))?", re.DOTALL)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s")
PARAMETER_TYPES = {"f32": ctypes.c_float, "u64": ctypes.c_int64, "b64": ctypes.c_int64,
                   "s64": ctypes.c_int64, "u32": ctypes.c_int32}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """A kernel that was launched, with what it was given."""

    name: str
    grid: tuple[int, int, int]
    block_threads: int
    shared_bytes: int
    arguments: tuple[int | float, ...]
    slots: bytes = field(default=b"", compare=False)
    """The arguments as they were given, 8 bytes each."""


Run = Callable[[Launch], None]


@dataclass
class Entry:
    """A kernel of a module; ``shared_bytes`` may be launched with."""

    module: int
    name: str
    kinds: Sequence[str]
    most_threads: int
    shared_bytes: int = USUAL_SHARED_BYTES


class FakeModules(FakeMemory):
    """Kernels that do what ``run`` does, when the stream comes to them."""

    def __init__(self, missing: Sequence[str] = (), idle_after: int = 2) -> None:
        super().__init__(missing, idle_after)
        self.run: Run | None = None
        self.version = 12040
        self.launches: list[Launch] = []
        self._entries: dict[int, dict[str, Entry]] = {}
        self._functions: dict[int, Entry] = {}

    @property
    def capability(self) -> tuple[int, int]:
        """Of the current card."""
        raise NotImplementedError

    @property
    def max_shared_bytes(self) -> int:
        """Of a block on the current card, at most."""
        raise NotImplementedError

    def _cuModuleLoadDataEx(
        self, module: Any, image: int, count: int, options: Any, values: Any
    ) -> int:
        ptx = ctypes.string_at(image).decode("ascii")
        head, entries = HEAD.search(ptx), ENTRY.findall(ptx)
        if head is None or not entries:
            logs = {options[index]: values[index] for index in range(count)}
            message = b"ptxas application ptx input, line 1; fatal: Unexpected token"
            ctypes.memmove(logs[5], message + b"\0", min(len(message) + 1, logs[6]))
            return INVALID_PTX
        known = max(ptx for driver, ptx in PTX_VERSIONS if driver <= self.version)
        if int(head[1] + head[2]) > known:
            return self._violation(f"PTX {head[1]}.{head[2]} for this driver", UNSUPPORTED_PTX)
        major, minor = self.capability
        if int(head[3]) > 10 * major + minor:
            return self._violation(f"code for sm_{head[3]} on this card", NO_BINARY)
        module[0] = handle = self._new("modules")
        self._entries[handle] = {
            name: Entry(handle, name, PARAMETER.findall(parameters), int(most or MOST_THREADS))
            for name, parameters, most in entries
        }
        return SUCCESS

    def _cuModuleUnload(self, module: int) -> int:
        if self.running_kernels:
            return self._violation("code is unloaded while kernels run", INVALID_VALUE)
        return self._drop("modules", module)

    def _cuModuleGetFunction(self, function: Any, module: int, name: bytes) -> int:
        if not self._is_usable("modules", module):
            return INVALID_HANDLE
        if name.decode() not in self._entries[module]:
            return NOT_FOUND
        function[0] = handle = next(self._handles)
        self._functions[handle] = self._entries[module][name.decode()]
        return SUCCESS

    def _cuFuncGetAttribute(self, value: Any, number: int, function: int) -> int:
        if function not in self._functions:
            return INVALID_HANDLE
        value[0] = {0: self._functions[function].most_threads, 4: 40}.get(number, 0)
        return SUCCESS

    def _cuFuncSetAttribute(self, function: int, number: int, value: int) -> int:
        if number != 8 or value > self.max_shared_bytes:
            return INVALID_VALUE
        self._functions[function].shared_bytes = value
        return SUCCESS

    def _cuLaunchKernel(self, function: int, *arguments: Any) -> int:
        *sizes, shared_bytes, stream, parameters, extra = arguments
        entry = self._functions.get(function)
        if entry is None or not self._is_usable("modules", entry.module):
            return self._violation("a kernel of a module that is not there", INVALID_HANDLE)
        name, grid, threads = entry.name, tuple(sizes[:3]), sizes[3]
        too_large = any(size > most for size, most in zip(grid, MOST_BLOCKS, strict=True))
        if extra or sizes[4:] != [1, 1] or not all(sizes) or too_large:
            return self._violation(f"{name}: sizes {sizes}", INVALID_VALUE)
        if threads > entry.most_threads:
            return self._violation(f"{name}: {threads} threads", OUT_OF_RESOURCES)
        if shared_bytes > entry.shared_bytes:
            return self._violation(f"{name}: {shared_bytes} bytes of shared memory", INVALID_VALUE)
        kinds = [PARAMETER_TYPES[kind] for kind in entry.kinds]
        slots = b"".join(
            ctypes.string_at(parameters[index], ctypes.sizeof(kind)).ljust(8, b"\0")
            for index, kind in enumerate(kinds)
        )
        values = tuple(
            kind.from_buffer_copy(slots, 8 * index).value for index, kind in enumerate(kinds)
        )
        launch = Launch(name, (sizes[0], sizes[1], sizes[2]), threads, shared_bytes, values, slots)
        code = self._put(stream, lambda: self._run(launch))
        if code == SUCCESS:
            self.launches.append(launch)
            self.running_kernels += 1
        return code

    def _run(self, launch: Launch) -> None:
        self.running_kernels -= 1
        if self.run:
            self.run(launch)
            self._check_guards(launch.name)
