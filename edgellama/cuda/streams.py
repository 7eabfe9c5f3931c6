"""Work that a card does in order: copies, kernels, and the time between two points.

Python uses these streams for everything that it starts itself. The steps of a model do not go
through this module: their program launches kernels by the addresses of the driver's functions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellama.cuda.context import Context, Resource
from edgellama.cuda.driver import NOT_READY, SUCCESS

if TYPE_CHECKING:
    from edgellama.cuda.modules import Function

NON_BLOCKING = 1
"""A stream that does not wait for those of other libraries."""
Grid = tuple[int, int, int]


class Stream(Resource):
    """What is put into it happens one after the other; each call but the waiting ones returns
    at once.

    Addresses are those of the card where a name says ``card``, else of the computer. What is
    copied from the computer may be written to as soon as the call returns, unless it is pinned.
    """

    def __init__(self, context: Context) -> None:
        """Open a stream of the context's."""
        handle = ctypes.c_void_p()
        context.call("cuStreamCreate", handle, NON_BLOCKING)
        super().__init__(context, "cuStreamDestroy", handle.value or 0)

    def copy_to_card(self, card_address: int, address: int, num_bytes: int) -> None:
        """Copy from the computer to the card."""
        self.context.call("cuMemcpyHtoDAsync", card_address, address, num_bytes, self.handle)

    def copy_from_card(self, address: int, card_address: int, num_bytes: int) -> None:
        """Copy from the card to the computer; it is there after ``synchronize``."""
        self.context.call("cuMemcpyDtoHAsync", address, card_address, num_bytes, self.handle)

    def copy_on_card(self, card_address: int, source_card_address: int, num_bytes: int) -> None:
        """Copy within the card."""
        call = self.context.call
        call("cuMemcpyDtoDAsync", card_address, source_card_address, num_bytes, self.handle)

    def fill(self, card_address: int, byte: int, num_bytes: int) -> None:
        """Set bytes of the card."""
        self.context.call("cuMemsetD8Async", card_address, byte, num_bytes, self.handle)

    def launch(
        self,
        function: Function,
        grid: Grid,
        block_threads: int,
        arguments: Sequence[int | float],
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel: whole numbers are passed as int64, others as float32."""
        slots = [
            ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)
            for value in arguments
        ]
        addresses = (ctypes.c_void_p * len(slots))(*map(ctypes.addressof, slots))
        self.context.call(
            "cuLaunchKernel",
            *(function.handle, *grid, block_threads, 1, 1, shared_bytes, self.handle, addresses),
            None,
        )

    def is_idle(self) -> bool:
        """Whether all is done; asking makes Windows send what it has held back."""
        with self.context.current():
            code = self.context.driver.result("cuStreamQuery", self.handle)
        if code not in (SUCCESS, NOT_READY):
            raise self.context.driver.error(code, "cuStreamQuery")
        return code == SUCCESS

    def synchronize(self) -> None:
        """Wait until all is done; an error of any of it is raised here."""
        self.context.call("cuStreamSynchronize", self.handle)


class Event(Resource):
    """A point in a stream, for measuring the time to another."""

    def __init__(self, context: Context) -> None:
        """An event that is nowhere yet."""
        handle = ctypes.c_void_p()
        context.call("cuEventCreate", handle, 0)
        super().__init__(context, "cuEventDestroy", handle.value or 0)

    def record(self, stream: Stream) -> None:
        """Put it behind all that the stream has been given so far."""
        self.context.call("cuEventRecord", self.handle, stream.handle)

    def seconds_until(self, later: Event) -> float:
        """The card's time from this event to a later one; both must have been reached."""
        milliseconds = ctypes.c_float()
        self.context.call("cuEventElapsedTime", milliseconds, self.handle, later.handle)
        return milliseconds.value / 1000
