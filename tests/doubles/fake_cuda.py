"""A test double of NVIDIA's driver: no card is behind it, and no time of it means anything.

The card's memory is memory of this process, at addresses that only copies and kernels may use.
Every call is recorded and checked as the manual has it: the current context, handles that live,
copies within what was allocated. What is put into a stream happens when somebody waits for it or
asks often enough, as on a card. Any call can be made to fail. What kernels do is given by ``run``.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from doubles.fake_library import ILLEGAL_ADDRESS, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE
from doubles.fake_memory import ALREADY_REGISTERED
from doubles.fake_modules import INVALID_PTX, NOT_FOUND, FakeModules, Run
from edgellama.cuda import cards
from edgellama.cuda.advice import STUB_LIBRARY
from edgellama.cuda.driver import OUT_OF_MEMORY, SUCCESS

INVALID_DEVICE, LAUNCH_TIMEOUT = 101, 702
MAX_SHARED_BYTES = 97
"""The attribute of a card that bounds the shared memory of a block."""
WORDS = {
    INVALID_VALUE: (b"CUDA_ERROR_INVALID_VALUE", b"invalid argument"),
    STUB_LIBRARY: (b"CUDA_ERROR_STUB_LIBRARY", b"CUDA driver is a stub library"),
    OUT_OF_MEMORY: (b"CUDA_ERROR_OUT_OF_MEMORY", b"out of memory"),
    INVALID_CONTEXT: (b"CUDA_ERROR_INVALID_CONTEXT", b"invalid device context"),
    INVALID_PTX: (b"CUDA_ERROR_INVALID_PTX", b"a PTX JIT compilation failed"),
    INVALID_HANDLE: (b"CUDA_ERROR_INVALID_HANDLE", b"invalid resource handle"),
    NOT_FOUND: (b"CUDA_ERROR_NOT_FOUND", b"named symbol not found"),
    ILLEGAL_ADDRESS: (b"CUDA_ERROR_ILLEGAL_ADDRESS", b"an illegal memory access was encountered"),
    ALREADY_REGISTERED: (
        b"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        b"part or all of the requested memory range is already mapped",
    ),
    LAUNCH_TIMEOUT: (b"CUDA_ERROR_LAUNCH_TIMEOUT", b"the launch timed out and was terminated"),
}


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
            MAX_SHARED_BYTES: 101376,
            cards.MEMORY_CLOCK_KHZ: 8_001_000,
            cards.MEMORY_BUS_BITS: 128,
        }
        return (usual | self.attributes).get(number, 0)


class FakeCuda(FakeModules):
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
        self.retained: Counter[int] = Counter()

    @property
    def leaks(self) -> dict[str, int]:
        """How many of each kind were not given back."""
        held = {kind: len(handles) for kind, handles in self.live.items()}
        held |= {"device memory": len(self.device_memory), "host memory": len(self.host_memory),
                 "contexts": sum(self.retained.values()),
                 "current contexts": sum(map(len, self.current.values()))}  # fmt: skip
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
        if context and not self.retained[context - 0xC0]:
            return self._violation("a context that is not there", INVALID_CONTEXT)
        self.contexts.append(context)
        return SUCCESS

    def _cuCtxPopCurrent(self, context: Any) -> int:
        stack = self.contexts
        if not stack:
            return self._violation("no context to pop", INVALID_CONTEXT)
        context[0] = stack.pop()
        return SUCCESS

    def _cuMemGetInfo(self, free: Any, total: Any) -> None:
        free[0], total[0] = self.free_bytes(), self._card().total_bytes

    def free_bytes(self) -> int:
        """What is left of the current card's memory."""
        used = sum(len(memory) for memory in self.device_memory.values())
        return self._card().free_bytes - used

    def _card(self) -> FakeCard:
        return self.cards[self.contexts[-1] - 0xC0]

    @property
    def capability(self) -> tuple[int, int]:
        """Of the current card."""
        return self._card().capability

    @property
    def max_shared_bytes(self) -> int:
        """Of a block on the current card, at most."""
        return self._card().attribute(MAX_SHARED_BYTES)
