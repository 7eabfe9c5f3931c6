"""A graphics card in use: its context, one stream, its memory, and kernels for it.

``placement`` decides which sequences use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgellama.cuda.cards import Card, choose_card
from edgellama.cuda.context import Context
from edgellama.cuda.driver import Driver
from edgellama.cuda.memory import CardMemory
from edgellama.cuda.modules import Function, Module
from edgellama.cuda.ptx_cache import ptx_of
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.cuda.streams import Stream
from edgellama.engine.card.choice import AttentionChoice
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.errors import CacheError, CudaError, KernelError

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.compile_pool import Progress


class CardDevice:
    """One card, opened for one model."""

    def __init__(self, driver: Driver, card: Card, limit_bytes: int | None) -> None:
        """Open the card, of whose memory ``limit_bytes`` may be used; CudaError."""
        self.card = card
        self.context = Context(driver, card)
        self.stream = Stream(self.context)
        self.memory = CardMemory(self.context, limit_bytes)
        self._modules: dict[Kernel, Module] = {}
        self._functions: dict[tuple[Kernel, int], Function] = {}

    @classmethod
    def open(cls, choice: AttentionChoice, driver: Driver | None = None) -> CardDevice:
        """The card that was chosen, or the first that can be used; CudaError if there is none."""
        driver = driver or Driver.load()
        return cls(driver, choose_card(driver, choice.gpu), choice.gpu_memory)

    def functions(
        self, kernels: Iterable[Kernel], head_size: int, progress: Progress | None = None
    ) -> Mapping[Kernel, Function]:
        """Kernels ready to be launched for heads of this size.

        What the cache of compiled code lacks is compiled, of which ``progress`` hears. CudaError,
        also where that cannot be done.
        """
        wanted = tuple(kernels)
        missing = [kernel for kernel in wanted if kernel not in self._modules]
        try:
            found_ptx = ptx_of(missing, self.card.capability, progress)
        except (CacheError, KernelError) as error:
            raise CudaError(f"no kernels for the graphics card: {error.what}") from error
        for kernel, ptx in found_ptx.items():
            self._modules[kernel] = Module(self.context, ptx)
        found = {}
        for kernel in wanted:
            key = kernel, head_size
            if key not in self._functions:
                shared_bytes = CARD_SIGNATURES[kernel].shared_bytes(head_size)
                self._functions[key] = self._modules[kernel].function(kernel.name, shared_bytes)
            found[kernel] = self._functions[key]
        return found

    def close(self) -> None:
        """Give everything back, pages of sequences too."""
        self.context.close()
