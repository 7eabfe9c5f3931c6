"""The part of the driver's test double that knows memory: both kinds, and copies between them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from doubles.fake_library import INVALID_VALUE
from doubles.fake_streams import FakeStreams
from edgellama.cuda.driver import OUT_OF_MEMORY, SUCCESS

GUARD, GUARD_BYTES = 0xC3, 64
ALREADY_REGISTERED, NOT_REGISTERED = 712, 713


class FakeMemory(FakeStreams):
    """Memory of this process in the place of the card's, and pinned memory."""

    def __init__(self, missing: Sequence[str] = (), idle_after: int = 2) -> None:
        super().__init__(missing, idle_after)
        self.device_memory: dict[int, Any] = {}
        self.host_memory: dict[int, Any] = {}
        self.registered: set[int] = set()

    def free_bytes(self) -> int:
        """What is left of the current card's memory."""
        raise NotImplementedError

    def _cuMemAlloc(self, address: Any, num_bytes: int) -> int:
        if not num_bytes:
            return INVALID_VALUE
        if num_bytes > self.free_bytes():
            return OUT_OF_MEMORY
        address[0] = self._take(self.device_memory, num_bytes, 0xA5)
        return SUCCESS

    @staticmethod
    def _take(memory: dict[int, Any], num_bytes: int, byte: int) -> int:
        """Memory on a boundary of 256 bytes, as the driver gives it, full of ``byte``.

        Behind it are bytes that nobody may write.
        """
        whole = (ctypes.c_ubyte * (num_bytes + 256 + GUARD_BYTES))()
        address = -(-ctypes.addressof(whole) // 256) * 256
        ctypes.memset(address, byte, num_bytes)
        ctypes.memset(address + num_bytes, GUARD, GUARD_BYTES)
        part = (ctypes.c_ubyte * num_bytes).from_address(address)
        part.whole = whole
        memory[address] = part
        return address

    def _check_guards(self, occasion: str) -> None:
        """Note whatever was written behind the end of memory."""
        for address, part in (*self.device_memory.items(), *self.host_memory.items()):
            if address in self.registered:
                continue  # Behind memory of others may be nothing.
            behind = ctypes.string_at(address + len(part), GUARD_BYTES)
            if behind != bytes([GUARD]) * GUARD_BYTES:
                self.violations.append(f"{occasion}: written behind {len(part)} bytes")

    def _cuMemFree(self, address: int) -> int:
        self._cuCtxSynchronize()
        return self._give_back(self.device_memory, address)

    def _give_back(self, memory: dict[int, Any], address: int) -> int:
        self._check_guards("freed")
        if memory.pop(address, None) is None:
            return self._violation(f"memory at {address:#x} is not there", INVALID_VALUE)
        return SUCCESS

    def _cuMemHostAlloc(self, address: Any, num_bytes: int, flags: int) -> int:
        if not num_bytes or not flags & 2:
            return INVALID_VALUE
        address[0] = self._take(self.host_memory, num_bytes, 0x5A)
        return SUCCESS

    def _cuMemFreeHost(self, address: int) -> int:
        if address in self.registered:
            return self._violation("memory of others is freed", INVALID_VALUE)
        return self._give_back(self.host_memory, address)

    def _cuMemHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        overlaps = any(
            address < start + len(part) and start < address + num_bytes
            for start, part in self.host_memory.items()
        )
        if overlaps:
            return self._violation("memory is pinned twice", ALREADY_REGISTERED)
        if not num_bytes or not flags & 2:
            return self._violation("memory is not mapped", INVALID_VALUE)
        self.host_memory[address] = (ctypes.c_ubyte * num_bytes).from_address(address)
        self.registered.add(address)
        return SUCCESS

    def _cuMemHostUnregister(self, address: int) -> int:
        if address not in self.registered:
            return self._violation(f"memory at {address:#x} was not registered", NOT_REGISTERED)
        if self.running_kernels:
            return self._violation("unpinned while the card may write to it", INVALID_VALUE)
        code = self._give_back(self.host_memory, address)
        self.registered.remove(address)
        return code

    def _cuMemHostGetDevicePointer(self, device_address: Any, address: int, flags: int) -> int:
        if address not in self.host_memory or flags:
            return self._violation("no such pinned memory", INVALID_VALUE)
        device_address[0] = address
        return SUCCESS

    def _holds(self, memory: dict[int, Any], address: int, num_bytes: int) -> bool:
        return any(
            start <= address and address + num_bytes <= start + len(part)
            for start, part in memory.items()
        )

    def _check_range(self, address: int, num_bytes: int) -> int:
        if not self._holds(self.device_memory, address, num_bytes):
            text = f"{num_bytes} bytes at {address:#x} are not allocated"
            return self._violation(text, INVALID_VALUE)
        return SUCCESS

    def _cuMemcpyHtoDAsync(self, to: int, source: int, num_bytes: int, stream: int) -> int:
        content = None
        if not self._holds(self.host_memory, source, num_bytes):
            content = ctypes.string_at(source, num_bytes)  # Staged at once.
        return self._check_range(to, num_bytes) or self._put(
            stream, lambda: ctypes.memmove(to, content or source, num_bytes)
        )

    def _cuMemcpyDtoHAsync(self, to: int, source: int, num_bytes: int, stream: int) -> int:
        code = self._check_range(source, num_bytes) or self._put(
            stream, lambda: ctypes.memmove(to, source, num_bytes)
        )
        pinned = self._holds(self.host_memory, to, num_bytes)
        return code or (SUCCESS if pinned else self._drain(stream))

    def _cuMemcpyDtoDAsync(self, to: int, source: int, num_bytes: int, stream: int) -> int:
        return (
            self._check_range(to, num_bytes)
            or self._check_range(source, num_bytes)
            or self._put(stream, lambda: ctypes.memmove(to, source, num_bytes))
        )

    def _cuMemsetD8Async(self, to: int, byte: int, num_bytes: int, stream: int) -> int:
        return self._check_range(to, num_bytes) or self._put(
            stream, lambda: ctypes.memset(to, byte, num_bytes)
        )
