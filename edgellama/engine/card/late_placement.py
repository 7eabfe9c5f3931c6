"""Places sequences on a card, but imports nothing of it until a text is long enough.

From then on, ``placement`` decides.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from edgellama.engine.card.choice import SHORTEST_AUTO, AttentionChoice
from edgellama.engine.card.use import CardUse
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.quant.errors import CudaError, CudaMemoryError

if TYPE_CHECKING:
    from edgellama.engine.card.device import CardDevice
    from edgellama.engine.card.placement import CardPlacement
    from edgellama.engine.pages.kv_types import KVTypes
    from edgellama.engine.pages.page_layout import PageLayout
    from edgellama.engine.running.machinery import Machinery
    from edgellama.engine.scheduling.scheduler import Scheduler
    from edgellama.engine.steps.step import StepRunner
    from edgellama.kernels_cpu.compiling.compile_pool import Progress
    from edgellama.kernels_cpu.machine.cpu import Tier
    from edgellama.quant.model_config import ModelConfig

    Measure: TypeAlias = Callable[[CardDevice, KVTypes], int | None]


class LatePlacement:
    """Stands for a ``CardPlacement``, which is made for the first text that may need it."""

    def __init__(
        self,
        choice: AttentionChoice,
        config: ModelConfig,
        cache_limit: int,
        working_bytes: Callable[[], int],
        measure: Measure,
        show_buffers: Callable[[CardDevice], None],
    ) -> None:
        """Arguments as for ``CardPlacement``. CudaError where "cuda" was chosen and cannot be."""
        self._arguments = choice, config, cache_limit, working_bytes, measure, show_buffers
        self._shortest = SHORTEST_AUTO if choice.mode == "auto" else 0
        self.made: CardPlacement | None = None
        if choice.mode == "cuda":
            self._make().open()

    @property
    def use(self) -> CardUse:
        """What is known of the card now."""
        return CardUse.none(self._arguments[0]) if self.made is None else self.made.use

    def prepare(self, whole: PageLayout, progress: Progress | None) -> None:
        """Have the card's kernels ready, if a card was asked for; see ``CardPlacement``."""
        if self.made is not None:
            self.made.prepare(whole, progress)

    def settle(self, cache: KVCache, num_tokens: int, *, may_forget: bool) -> None:
        """See ``kv_cache.Placement``."""
        if self.made is None and num_tokens <= self._shortest:
            return
        (self.made or self._make()).settle(cache, num_tokens, may_forget=may_forget)

    def retreat(self, cache: KVCache, error: CudaMemoryError) -> None:
        """See ``kv_cache.Placement``."""
        if self.made is None:
            raise error
        self.made.retreat(cache, error)

    def take_part(self, runner: StepRunner, cancel_word: int) -> None:
        """See ``CardOfSteps``."""
        assert self.made is not None, "whoever has pages on a card was placed there"
        self.made.take_part(runner, cancel_word)

    def fail(self, error: CudaError) -> None:
        """See ``CardOfSteps``."""
        if self.made is not None:
            self.made.fail(error)

    def clear(self) -> None:
        """Give back pages that no sequence holds."""
        if self.made is not None:
            self.made.clear()

    def rest(self) -> None:
        """Give the card back until the next text, if no sequence lies there."""
        if self.made is not None:
            self.made.rest()

    def close(self) -> None:
        """Give the card back."""
        if self.made is not None:
            self.made.close()

    def _make(self) -> CardPlacement:
        from edgellama.engine.card.placement import CardPlacement

        self.made = CardPlacement(*self._arguments)
        return self.made


class BetweenSteps:
    """What a placement asks of its engine, which happens between two steps.

    Steps know the placement, which knows this: a forgotten engine must end at once, so its
    scheduler is not held. Whoever settles a sequence holds the engine.
    """

    def __init__(
        self, machine: Machinery, config: ModelConfig, tier: Tier, scheduler: Scheduler
    ) -> None:
        self._machine, self._config, self._tier = machine, config, tier
        self._reference = weakref.ref(scheduler)

    def measure(self, device: CardDevice, types: KVTypes) -> int | None:
        """From how many tokens on attention is faster on a card, measured once on a machine.

        None: never. CudaError where results differ.
        """
        from edgellama.engine.card.calibration import calibrate

        return calibrate(device, types, self._machine, self._config, self._tier, self._scheduler)

    def show_buffers(self, device: CardDevice) -> None:
        """Let a card have the buffers of steps. CudaError."""
        machine, runner = self._machine, self._machine.runner
        if runner is None or runner.card is None:
            from edgellama.engine.card.step import use_card

            self._scheduler.refuse_within_a_step()
            self._scheduler.exclusively(
                lambda: use_card(machine.open(), device, self._config, machine.team.cancel_word)
            )

    @property
    def _scheduler(self) -> Scheduler:
        found = self._reference()
        assert found is not None
        return found
