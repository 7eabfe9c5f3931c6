"""Memory of the card, handed out up to a limit, and the computer's memory that the card can access.

The module counts what it hands out and returns it when it is closed. What the bytes mean is the
business of those who ask for them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.cuda.cards import Card
from edgellama.cuda.context import Context, Resource
from edgellama.quant.errors import CudaMemoryError

PORTABLE, MAPPED = 0x01, 0x02
"""Flags of pinned memory: for all contexts; with an address on the card."""


BLOCK_BYTES = 2 << 20
"""The driver takes the card's memory in such blocks; what is smaller than half of one shares it."""


def taken_bytes(num_bytes: int) -> int:
    """What memory of ``num_bytes`` takes of the card.

    >>> taken_bytes(1000), taken_bytes(3_000_000)
    (1000, 4194304)
    """
    return (
        num_bytes if num_bytes <= BLOCK_BYTES // 2 else -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
    )


SPARED_BYTES = 256 << 20
"""Of what a card has free, what is left where more than its own memory can be had."""
WSL_DEVICE = "/dev/dxg"
"""Linux under Windows has it."""


def may_spill(card: Card) -> bool:
    """Whether the driver gives memory of the computer where the card's is full, and says nothing.

    Drivers of Windows do so, and what lies there is ten times as slow. An integrated card has
    the computer's alone, whose end is the end of other programs.
    """
    is_windows = sys.platform == "win32" or Path(WSL_DEVICE).exists()
    return is_windows or card.is_integrated


class DeviceMemory(Resource):
    """Bytes on the card; what they hold at first is unknown."""

    def __init__(
        self, context: Context, address: int, num_bytes: int, after: Callable[[], None]
    ) -> None:
        super().__init__(context, "cuMemFree", address, after)
        self.address, self.num_bytes = address, num_bytes


class MappedMemory(Resource):
    """Pinned memory of the computer at ``address``, for the card at ``device_address``."""

    def __init__(self, context: Context, num_bytes: int) -> None:
        """Take ``num_bytes``, zeros at first; CudaMemoryError if they cannot be had."""
        address, device_address = ctypes.c_void_p(), ctypes.c_uint64()
        context.call("cuMemHostAlloc", address, num_bytes, PORTABLE | MAPPED)
        super().__init__(context, "cuMemFreeHost", address.value or 0)
        self.address, self.num_bytes = self.handle, num_bytes
        context.call("cuMemHostGetDevicePointer", device_address, self.address, 0)
        self.device_address = device_address.value
        ctypes.memset(self.address, 0, num_bytes)

    def view(self) -> npt.NDArray[np.uint8]:
        """Its bytes as an array, which must not be used once it is closed."""
        buffer = (ctypes.c_ubyte * self.num_bytes).from_address(self.address)
        # The memory lives as long as an array of it.
        setattr(buffer, "owner", self)  # noqa: B010
        return np.ctypeslib.as_array(buffer)


class RegisteredMemory(Resource):
    """An array's memory, pinned where it lies; ``device_address`` is the card's for it."""

    def __init__(self, context: Context, array: npt.NDArray[Any]) -> None:
        """CudaError where the system pins no more. The array is held as long as this is."""
        address, device_address = int(array.ctypes.data), ctypes.c_uint64()
        context.call("cuMemHostRegister", address, array.nbytes, PORTABLE | MAPPED)
        super().__init__(context, "cuMemHostUnregister", address, functools.partial(_let_go, array))
        context.call("cuMemHostGetDevicePointer", device_address, address, 0)
        self.device_address = device_address.value
        _keep_from_children(address, array.nbytes)


class CardMemory:
    """Hands out memory of one card and counts it.

    ``limit_bytes``: the most that may be held at once; None for as much as the card has. Where
    the driver would give other memory than the card's it is asked before how much there is.
    """

    def __init__(self, context: Context, limit_bytes: int | None = None) -> None:
        self.context, self.limit_bytes = context, limit_bytes
        self._spared_bytes = SPARED_BYTES if may_spill(context.card) else 0
        self._used_bytes = 0
        # Whatever is unheld is freed by whichever thread notices, perhaps within ``allocate``.
        self._lock = threading.RLock()

    @property
    def used_bytes(self) -> int:
        """How much is held."""
        return self._used_bytes

    @property
    def room_bytes(self) -> int:
        """How much may still be taken, as far as is known now; CudaError."""
        free, _ = self.context.memory_bytes()
        free = max(free - self._spared_bytes, 0)
        return free if self.limit_bytes is None else min(free, self.limit_bytes - self.used_bytes)

    def allocate(self, num_bytes: int) -> DeviceMemory:
        """Memory of the card; CudaMemoryError if the limit or the card has no room for it.

        An allocation that fails leaves everything as it was.
        """
        taken = taken_bytes(num_bytes)
        with self._lock:
            limit, used = self.limit_bytes, self._used_bytes
            if limit is not None and used + taken > limit:
                raise CudaMemoryError(
                    f"{taken} bytes more do not fit the limit of the card's memory: {used} of "
                    f"{limit} bytes are used"
                )
            if self._spared_bytes and (room := self.room_bytes) < taken:
                raise CudaMemoryError(f"{taken} bytes more do not fit the card: {room} are free")
            address = ctypes.c_uint64()
            self.context.call("cuMemAlloc", address, num_bytes)
            self._used_bytes += taken
        after = functools.partial(self._count_freed, taken)
        return DeviceMemory(self.context, address.value, num_bytes, after)

    def _count_freed(self, num_bytes: int) -> None:
        with self._lock:
            self._used_bytes -= num_bytes


WIPE_ON_FORK = 18
"""Linux' advice that a child finds zeros there, which Python does not name."""


def _keep_from_children(address: int, num_bytes: int) -> None:
    """Have no child share whole pages of memory that a card reads and writes.

    Pages that a child shares are copied when either writes to them: the process would have new
    ones, and old kernels leave the card with those of before. Other systems do not fork.
    """
    if sys.platform == "linux" and not address % mmap.PAGESIZE:
        whole = num_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        # Where it is refused, forking between two steps is as it always was.
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(address), ctypes.c_size_t(whole), ctypes.c_int(WIPE_ON_FORK)
        )


def _let_go(array: npt.NDArray[Any]) -> None:
    """Called in the end, so that the array lives until then."""
