"""The context of this process on one card, and the resources that are released with it.

The context is the card's primary one, which other libraries in this process may use as well. So
every call makes it the thread's current context and afterwards restores the one that was current.
What a resource is (memory, a stream, a module) is known to the module that makes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import weakref
from collections.abc import Callable, Iterator

from edgellama.cuda.cards import Card, device_handle
from edgellama.cuda.driver import SUCCESS, Driver
from edgellama.quant.errors import CudaError

logger = logging.getLogger(__name__)


class Context:
    """One card's context, which costs 0.1 to 0.5 s and 200 to 400 MB of the card's memory.

    ``handle`` is what threads of machine code give to ``cuCtxPushCurrent``.
    """

    def __init__(self, driver: Driver, card: Card) -> None:
        """Take the card's primary context; CudaError, CudaMemoryError if it cannot be had."""
        self.driver, self.card = driver, card
        device = device_handle(driver, card.index)
        handle = ctypes.c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", handle, device)
        self.handle = handle.value or 0
        self._releases: dict[int, weakref.finalize[..., Resource]] = {}
        self._numbers = itertools.count()
        self._finalizer = weakref.finalize(self, _release_context, driver, device)
        self._finalizer.atexit = False

    @property
    def is_open(self) -> bool:
        """Whether ``close`` was not called yet."""
        return self._finalizer.alive

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the driver in this context; CudaError unless it succeeds."""
        with self.current():
            self.driver.call(name, *arguments)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this the thread's current context for a while; CudaError once it is closed."""
        if not self.is_open:
            raise CudaError(f"the context of card {self.card.index} is closed")
        self.driver.call("cuCtxPushCurrent", self.handle)
        try:
            yield
        finally:
            self.driver.result("cuCtxPopCurrent", ctypes.c_void_p())

    def memory_bytes(self) -> tuple[int, int]:
        """Free and all memory of the card, in bytes, whoever uses it."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo", free, total)
        return free.value, total.value

    def synchronize(self) -> None:
        """Wait for all that was launched; an error of any of it is raised here."""
        self.call("cuCtxSynchronize")

    def close(self) -> None:
        """Release all that is left of its resources, the latest first, and then the context."""
        for number in sorted(self._releases, reverse=True):
            release = self._releases.get(number)
            if release is not None:
                release()
        self._finalizer()

    def adopt(
        self, resource: Resource, function: str, after: Callable[[], None] | None
    ) -> weakref.finalize[..., Resource]:
        """Have ``resource`` released once by a function of the driver; what does that."""
        number = next(self._numbers)
        release = weakref.finalize(
            resource, self._release, number, function, resource.handle, after
        )
        release.atexit = False
        self._releases[number] = release
        return release

    def _release(
        self, number: int, function: str, handle: int, after: Callable[[], None] | None
    ) -> None:
        # A forked child has nothing to give back, and locks that others held when it was made.
        if self.driver.is_foreign:
            return
        self._releases.pop(number, None)
        try:
            self.call(function, handle)
        except CudaError as error:  # A lost card has nothing to give back.
            logger.debug("%s", error)
        if after:
            after()


class Resource:
    """Something of a context's: released once, by ``close``, with its context, or unheld."""

    def __init__(
        self,
        context: Context,
        function: str,
        handle: int,
        after: Callable[[], None] | None = None,
    ) -> None:
        """Have ``handle`` given to the driver's ``function`` in the end, then call ``after``."""
        self.context, self.handle = context, handle
        self._release = context.adopt(self, function, after)

    @property
    def is_open(self) -> bool:
        """Whether it was not released yet."""
        return self._release.alive

    def close(self) -> None:
        """Release it now; a second time does nothing."""
        self._release()


def _release_context(driver: Driver, device: int) -> None:
    if not driver.is_foreign:
        code = driver.result("cuDevicePrimaryCtxRelease", device)
        if code != SUCCESS:
            logger.debug("%s", driver.error(code, "cuDevicePrimaryCtxRelease"))
