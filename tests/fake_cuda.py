"""A test double of NVIDIA's driver: no card is behind it, and no time of it means anything.

The card's memory is memory of this process, at addresses that only copies and kernels may use.
Every call is recorded and checked as the manual has it: the current context, handles that live,
copies within what was allocated. What is put into a stream happens when somebody waits for it or
asks often enough, as on a card. Any call can be made to fail. What kernels do is given by ``run``.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fake_library import ILLEGAL_ADDRESS, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE
from fake_memory import FakeMemory

from edgellama.cuda import cards
from edgellama.cuda.advice import STUB_LIBRARY
from edgellama.cuda.driver import OUT_OF_MEMORY, SUCCESS

INVALID_DEVICE, INVALID_PTX = 101, 218
NOT_FOUND, LAUNCH_TIMEOUT = 500, 702
WORDS = {
    INVALID_VALUE: (b"CUDA_ERROR_INVALID_VALUE", b"invalid argument"),
    STUB_LIBRARY: (b"CUDA_ERROR_STUB_LIBRARY", b"CUDA driver is a stub library"),
    OUT_OF_MEMORY: (b"CUDA_ERROR_OUT_OF_MEMORY", b"out of memory"),
    INVALID_CONTEXT: (b"CUDA_ERROR_INVALID_CONTEXT", b"invalid device context"),
    INVALID_PTX: (b"CUDA_ERROR_INVALID_PTX", b"a PTX JIT compilation failed"),
    INVALID_HANDLE: (b"CUDA_ERROR_INVALID_HANDLE", b"invalid resource handle"),
    NOT_FOUND: (b"CUDA_ERROR_NOT_FOUND", b"named symbol not found"),
    ILLEGAL_ADDRESS: (b"CUDA_ERROR_ILLEGAL_ADDRESS", b"an illegal memory access was encountered"),
    LAUNCH_TIMEOUT: (b"CUDA_ERROR_LAUNCH_TIMEOUT", b"the launch timed out and was terminated"),
}
USUAL_SHARED_BYTES = 48 * 1024
"""Of a launch at most, unless the function's attribute says otherwise."""
ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)", re.DOTALL)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s")
PARAMETER_TYPES = {"f32": ctypes.c_float, "u64": ctypes.c_int64, "b64": ctypes.c_int64,
                   "s64": ctypes.c_int64, "u32": ctypes.c_int32}  # fmt: skip


@dataclass(frozen=True)
class FakeCard:
    """What the double says of a card."""

    name: str = "Test Double 4060"
    capability: tuple[int, int] = (8, 9)
    total_bytes: int = 4 << 30
    free_bytes: int = 3 << 30
    attributes: dict[int, int] = field(default_factory=dict)

    def attribute(self, number: int) -> int:
        """The attribute of that number."""
        usual = {
            cards.CAPABILITY_MAJOR: self.capability[0],
            cards.CAPABILITY_MINOR: self.capability[1],
            cards.MULTIPROCESSORS: 24,
            cards.MAPS_HOST_MEMORY: 1,
            cards.MAX_SHARED_BYTES: 101376,
            cards.MEMORY_CLOCK_KHZ: 8_001_000,
            cards.MEMORY_BUS_BITS: 128,
        }
        return (usual | self.attributes).get(number, 0)


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


class FakeCuda(FakeMemory):
    """The driver's functions, over the memory of this process.

    ``run`` does what a kernel would. ``idle_after`` as for ``FakeStreams``.
    """

    def __init__(
        self,
        *fake_cards: FakeCard,
        version: int = 12040,
        run: Run | None = None,
        idle_after: int = 2,
        missing: Sequence[str] = (),
    ) -> None:
        super().__init__(missing, idle_after)
        self.cards = fake_cards or (FakeCard(),)
        self.version, self.run = version, run
        self.refused_attributes: set[int] = set()
        self.launches: list[Launch] = []
        self.retained: Counter[int] = Counter()
        self._entries: dict[int, dict[str, list[str]]] = {}
        self._functions: dict[int, tuple[int, str]] = {}
        self._shared_bytes: dict[int, int] = {}

    @property
    def leaks(self) -> dict[str, int]:
        """How many of each kind were not given back."""
        held = {kind: len(handles) for kind, handles in self.live.items()}
        held |= {"device memory": len(self.device_memory), "host memory": len(self.host_memory),
                 "contexts": sum(self.retained.values())}  # fmt: skip
        return {kind: count for kind, count in held.items() if count}

    def _cuInit(self, flags: int) -> int:
        return INVALID_VALUE if flags else SUCCESS

    def _cuDriverGetVersion(self, version: Any) -> None:
        version[0] = self.version

    def _cuGetErrorName(self, code: int, text: Any) -> int:
        return self._word(code, 0, text)

    def _cuGetErrorString(self, code: int, text: Any) -> int:
        return self._word(code, 1, text)

    def _word(self, code: int, index: int, text: Any) -> int:
        if code not in WORDS:
            return INVALID_VALUE
        text[0] = WORDS[code][index]
        return SUCCESS

    def _cuDeviceGetCount(self, count: Any) -> None:
        count[0] = len(self.cards)

    def _cuDeviceGet(self, device: Any, ordinal: int) -> int:
        if not 0 <= ordinal < len(self.cards):
            return INVALID_DEVICE
        device[0] = ordinal
        return SUCCESS

    def _cuDeviceGetName(self, name: Any, num_bytes: int, device: int) -> None:
        content = self.cards[device].name.encode()[: num_bytes - 1] + b"\0"
        ctypes.memmove(name, content, len(content))

    def _cuDeviceGetUuid(self, uuid: Any, device: int) -> None:
        ctypes.memmove(uuid, bytes(range(device, device + 16)), 16)

    def _cuDeviceGetAttribute(self, value: Any, number: int, device: int) -> int:
        if number in self.refused_attributes:
            return INVALID_VALUE
        value[0] = self.cards[device].attribute(number)
        return SUCCESS

    def _cuDeviceTotalMem(self, num_bytes: Any, device: int) -> None:
        num_bytes[0] = self.cards[device].total_bytes

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        self.retained[device] += 1
        context[0] = 0xC0 + device

    def _cuDevicePrimaryCtxRelease(self, device: int) -> int:
        if not self.retained[device]:
            return self._violation("a context was released twice", INVALID_CONTEXT)
        self.retained[device] -= 1
        return SUCCESS

    def _cuCtxPushCurrent(self, context: int) -> int:
        self.contexts.append(context)
        return self._check_context(context)

    def _cuCtxPopCurrent(self, context: Any) -> int:
        stack = self.contexts
        if not stack:
            return self._violation("no context to pop", INVALID_CONTEXT)
        context[0] = stack.pop()
        return SUCCESS

    def _check_context(self, context: int) -> int:
        if context and not self.retained[context - 0xC0]:
            return self._violation("a context that is not there", INVALID_CONTEXT)
        return SUCCESS

    def _cuMemGetInfo(self, free: Any, total: Any) -> None:
        free[0], total[0] = self.free_bytes(), self._card().total_bytes

    def free_bytes(self) -> int:
        """What is left of the current card's memory."""
        used = sum(len(memory) for memory in self.device_memory.values())
        return self._card().free_bytes - used

    def _card(self) -> FakeCard:
        return self.cards[self.contexts[-1] - 0xC0]

    def _cuModuleLoadDataEx(
        self, module: Any, image: int, count: int, options: Any, values: Any
    ) -> int:
        ptx = ctypes.string_at(image).decode("ascii")
        entries = {name: PARAMETER.findall(parameters) for name, parameters in ENTRY.findall(ptx)}
        if ".version" not in ptx or not entries:
            logs = {options[index]: values[index] for index in range(count)}
            message = b"ptxas application ptx input, line 1; fatal: Unexpected token"
            ctypes.memmove(logs[5], message + b"\0", min(len(message) + 1, logs[6]))
            return INVALID_PTX
        module[0] = handle = self._new("modules")
        self._entries[handle] = entries
        return SUCCESS

    def _cuModuleUnload(self, module: int) -> int:
        return self._drop("modules", module)

    def _cuModuleGetFunction(self, function: Any, module: int, name: bytes) -> int:
        if module not in self.live["modules"]:
            return self._violation("a module that is not there", INVALID_HANDLE)
        if name.decode() not in self._entries[module]:
            return NOT_FOUND
        function[0] = handle = next(self._handles)
        self._functions[handle] = (module, name.decode())
        return SUCCESS

    def _cuFuncGetAttribute(self, value: Any, number: int, function: int) -> int:
        value[0] = {0: 1024, 4: 40}.get(number, 0)
        return SUCCESS if function in self._functions else INVALID_HANDLE

    def _cuFuncSetAttribute(self, function: int, number: int, value: int) -> int:
        self._shared_bytes[function] = value
        return SUCCESS if number == 8 and value <= 101376 else INVALID_VALUE

    def _cuLaunchKernel(self, function: int, *arguments: Any) -> int:
        *sizes, shared_bytes, stream, parameters, extra = arguments
        module, name = self._functions.get(function, (0, ""))
        if module not in self.live["modules"]:
            return self._violation("a kernel of a module that is not there", INVALID_HANDLE)
        if extra or sizes[4:] != [1, 1] or not all(sizes) or max(sizes[1:3]) > 65535:
            return self._violation(f"{name}: sizes {sizes}", INVALID_VALUE)
        if shared_bytes > self._shared_bytes.get(function, USUAL_SHARED_BYTES):
            return self._violation(f"{name}: {shared_bytes} bytes of shared memory", INVALID_VALUE)
        kinds = [PARAMETER_TYPES[kind] for kind in self._entries[module][name]]
        slots = b"".join(
            ctypes.string_at(parameters[index], ctypes.sizeof(kind)).ljust(8, b"\0")
            for index, kind in enumerate(kinds)
        )
        values = tuple(
            kind.from_buffer_copy(slots, 8 * index).value for index, kind in enumerate(kinds)
        )
        grid = sizes[0], sizes[1], sizes[2]
        launch = Launch(name, grid, sizes[3], shared_bytes, values, slots)
        self.launches.append(launch)
        return self._put(stream, lambda: self._run(launch))

    def _run(self, launch: Launch) -> None:
        if self.run:
            self.run(launch)
            self._check_guards(launch.name)
