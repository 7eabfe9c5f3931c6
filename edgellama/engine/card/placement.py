"""Decides which sequences lie on the graphics card, and moves them when it cannot keep them.

A sequence moves there as a whole, with all of its layers or with as many of the first ones as fit.
If the card's memory is full, it comes back with everything it holds; if the card is lost, with
nothing.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgellama.engine.card.attention import CardKernels
from edgellama.engine.card.choice import SHORTEST_AUTO, AttentionChoice
from edgellama.engine.card.device import CardDevice
from edgellama.engine.card.fitting_layers import num_fitting_layers
from edgellama.engine.card.pages import CardPages
from edgellama.engine.card.step import use_card
from edgellama.engine.card.use import CardUse
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.pages.page_pool import Page, PagePool
from edgellama.engine.steps.step import StepRunner
from edgellama.quant.errors import (
    CudaError,
    CudaLostError,
    CudaMemoryError,
    EdgellamaError,
    InvalidOptionError,
    UnsupportedModelError,
)
from edgellama.quant.process_bound import call_after_fork

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.compile_pool import Progress
    from edgellama.quant.model_config import ModelConfig

logger = logging.getLogger("edgellama.llama")

CACHED_S = 0.1
"""Kernels that are in the cache are there sooner."""


class CardPlacement:
    """Places the sequences of one engine, of a model of ``config``.

    ``measure`` tells, once a card is open, from how many tokens on it is faster, None for never;
    ``working_bytes``, what steps will take of its memory beside pages; ``show_buffers`` lets the
    card have those of steps. ``open_device`` opens the card.
    """

    def __init__(
        self,
        choice: AttentionChoice,
        config: ModelConfig,
        cache_limit: int,
        working_bytes: Callable[[], int],
        measure: Callable[[CardDevice, KVTypes], int | None],
        show_buffers: Callable[[CardDevice], None],
        open_device: Callable[[AttentionChoice], CardDevice] = CardDevice.open,
    ) -> None:
        self._choice, self._measure, self._working_bytes = choice, measure, working_bytes
        self._show_buffers = show_buffers
        self._config, self._cache_limit, self._open_device = config, cache_limit, open_device
        self.device: CardDevice | None = None
        self._pools: dict[CardLayout, PagePool] = {}
        self._workers: dict[KVTypes, threading.Thread] = {}
        self._thresholds: dict[KVTypes, int | None] = {}
        self._placed: weakref.WeakSet[KVCache] = weakref.WeakSet()
        self._renew_lock()
        call_after_fork(self._renew_lock)
        self._staying: weakref.WeakSet[KVCache] = weakref.WeakSet()
        self._said: set[str] = set()
        self.obstacle: EdgellamaError | None = None
        """Why the card is not used, or not any more."""

    def _renew_lock(self) -> None:
        self._placing = threading.RLock()

    @property
    def use(self) -> CardUse:
        """What is known of the card now."""
        use = CardUse.none(self._choice, self.obstacle)
        if self.device is None:
            return use
        card, used_bytes = self.device.card, self.device.memory.used_bytes
        return replace(use, name=card.name, gpu=card.index, used_bytes=used_bytes)

    def open(self) -> CardDevice | None:
        """The card; None if it cannot be used under "auto". CudaError under "cuda"."""
        with self._placing:
            if self.device is None and self.obstacle is None:
                try:
                    self.device = self._open_device(self._choice)
                except (CudaError, InvalidOptionError) as error:
                    if self._choice.mode == "cuda":
                        raise
                    self.obstacle = error
                    level = logging.DEBUG if isinstance(error, CudaError) else logging.WARNING
                    logger.log(level, "attention stays on the CPU: %s", error)
            return None if self.obstacle else self.device

    def prepare(self, whole: PageLayout, progress: Progress | None = None) -> None:
        """Have the kernels ready for sequences whose pages on the CPU have this layout.

        ``progress`` hears of those that must be compiled. CudaError, UnsupportedModelError.
        """
        device = self.open()
        if device is not None:
            layout = CardLayout(whole, whole.num_layers)
            kernels = CardKernels.of(self._config, layout, device.card.capability)
            device.functions(kernels.all, layout.card.head_size, progress)

    def settle(self, cache: KVCache, num_tokens: int, *, may_forget: bool) -> None:
        """See ``kv_cache.Placement``; CudaLostError for tokens that are lost with their card."""
        if isinstance(cache.pool.maker, CardPages):
            if self.obstacle is not None:
                self._forget(cache, may_forget)
                return
            if cache.pool in self._pools.values():
                return
            cache.return_home()  # It has no tokens, or the card would not have been given back.
        is_short = self._choice.mode == "auto" and num_tokens <= SHORTEST_AUTO
        if is_short or self.obstacle is not None or cache in self._staying:
            return
        try:
            device = self.open()
            if device is not None and self._is_worth_it(device, cache, num_tokens):
                with self._placing:
                    # Otherwise the card was given back meanwhile, and this text runs on the CPU.
                    if self.device is device:
                        self._move(device, cache, num_tokens)
        except CudaMemoryError as error:
            self._stay(cache, error)
        except (CudaError, UnsupportedModelError) as error:
            self.fail(error)
            if self._choice.mode == "cuda":
                raise

    def retreat(self, cache: KVCache, error: CudaMemoryError) -> None:
        """Bring a sequence back that finds no more room; CudaError if the card is lost."""
        maker = cache.pool.maker
        if not isinstance(maker, CardPages):
            raise error

        def copy(source: Page, target: Page) -> None:
            target.memory[:] = maker.host_memory(source)

        cache.move_to(cache.home, copy)
        self._stay(cache, error)

    def take_part(self, runner: StepRunner, cancel_word: int) -> None:
        """See ``CardOfSteps``."""
        if self.obstacle is not None or self.device is None:
            raise CudaLostError(f"the graphics card is lost: {self.obstacle}")
        use_card(runner, self.device, self._config, cancel_word)

    def fail(self, error: EdgellamaError) -> None:
        """Use the card no more: what lies there is lost."""
        if self.obstacle is None:
            self.obstacle = error
            self._say("failure", f"attention goes on on the CPU: {error}")

    def clear(self) -> None:
        """Give back pages that no sequence holds."""
        for pool in self._pools.values():
            pool.clear()

    def rest(self) -> None:
        """Give the card back until the next text, if no sequence lies there or comes there now.

        Called between two steps: a sequence without tokens may wait for the next one, which then
        runs here.
        """
        self.clear()
        # A thread that brings a sequence there may wait for this moment between two steps.
        if not self._placing.acquire(blocking=False):
            return
        try:
            for cache in self._placed:
                if isinstance(cache.pool.maker, CardPages) and not cache.length:
                    cache.return_home()
            if not any(pool.num_owned for pool in self._pools.values()):
                self.close()
        finally:
            self._placing.release()

    def close(self) -> None:
        """Give the card back; what lies there is lost."""
        if self.device is not None:
            self.device.close()
            self.device = None
        self._pools.clear()

    def _is_worth_it(self, device: CardDevice, cache: KVCache, num_tokens: int) -> bool:
        if self._choice.mode == "cuda":
            return True
        types = cache.layout.types
        if types not in self._thresholds:
            if not self._is_prepared(cache.home.maker.host_layout):
                return False
            self._thresholds[types] = self._measure(device, types)
        threshold = self._thresholds[types]
        return threshold is not None and num_tokens > threshold

    def _is_prepared(self, whole: PageLayout) -> bool:
        """Whether the kernels are ready; if not they become so while texts go on on the CPU."""
        worker = self._workers.get(whole.types)
        if worker is None:
            worker = threading.Thread(target=self._prepare_alone, args=(whole,), daemon=True)
            self._workers[whole.types] = worker
            worker.start()
            worker.join(CACHED_S)
        return not worker.is_alive()

    def _prepare_alone(self, whole: PageLayout) -> None:
        device = self.device
        try:
            self.prepare(whole)
        except EdgellamaError as error:
            # A card that was given back meanwhile is opened again for the next text.
            if self.device is device:
                self.fail(error)

    def _move(self, device: CardDevice, cache: KVCache, num_tokens: int) -> None:
        whole = cache.home.maker.host_layout
        self.prepare(whole)
        num_layers = num_fitting_layers(
            whole, num_tokens, cache.context_length, self._room_bytes(device)
        )
        if num_layers < whole.num_layers:
            self._say(
                "layers",
                f"the card has room for keys and values of {num_layers} of {whole.num_layers} "
                "layers; the others stay on the CPU",
            )
        self._show_buffers(device)
        pool = self._pool(device, CardLayout(whole, num_layers))
        maker = pool.maker
        assert isinstance(maker, CardPages)
        # The host's pages may be of a file, or of another sequence: they are only read.
        cache.move_to(pool, partial(_take, maker, whole))
        self._placed.add(cache)

    def _pool(self, device: CardDevice, layout: CardLayout) -> PagePool:
        pool = self._pools.get(layout)
        if pool is None:
            maker = CardPages(layout, device.memory, device.stream)
            pool = self._pools.setdefault(layout, PagePool(layout, self._cache_limit, maker))
        return pool

    def _room_bytes(self, device: CardDevice) -> int:
        """What pages may take of the card's memory, beside what steps need of it."""
        idle_bytes = sum(pool.idle_bytes for pool in self._pools.values())
        return device.memory.room_bytes + idle_bytes - self._working_bytes()

    def _stay(self, cache: KVCache, error: CudaMemoryError) -> None:
        self._staying.add(cache)
        self._say("memory", f"a text stays on the CPU: {error}")

    def _forget(self, cache: KVCache, may_forget: bool) -> None:
        """Begin anew on the CPU, with a cache whose card is lost."""
        had_tokens = cache.length > 0
        cache.return_home()
        if had_tokens and not may_forget:
            raise CudaLostError(
                f"the keys and values of this text were lost with the graphics card "
                f"({self.obstacle}); ask again, and they are computed on the CPU"
            )

    def _say(self, occasion: str, message: str) -> None:
        """Warn, once for each occasion."""
        if occasion not in self._said:
            self._said.add(occasion)
            logger.warning("%s", message)


def _take(maker: CardPages, layout: PageLayout, source: Page, target: Page) -> None:
    maker.take(source.memory, layout, target)
