"""The parts of an engine in this process: weights, kernels, threads, pages and perhaps a card.

They are made, changed and released here, between two steps. ``engine`` offers what callers compute
with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgellama.engine.card.choice import ON_CPU, AttentionChoice
from edgellama.engine.card.late_placement import BetweenSteps, LatePlacement
from edgellama.engine.card.use import CardUse
from edgellama.engine.engine_arguments import checked_layers
from edgellama.engine.idle_watch import IdleWatch
from edgellama.engine.pages.kv_types import KVTypeChoice
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.pages.page_pool import PagePool
from edgellama.engine.pages.page_pools import PagePools
from edgellama.engine.program.hooks import Hook
from edgellama.engine.program.step_sizes import step_tokens
from edgellama.engine.running.machinery import Machinery, checked_num_threads
from edgellama.engine.running.needed_kernels import NeededKernels
from edgellama.engine.running.step_runs import StepRuns
from edgellama.engine.running.step_timer import StepTimer
from edgellama.engine.scheduling.scheduler import Scheduler
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.weights.adapter_shelf import AdapterShelf
from edgellama.engine.weights.memory import return_free_heap
from edgellama.engine.weights.weights import ModelWeights
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels, choose_tier
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.process_bound import call_after_fork
from edgellama.quant.rope_choice import config_of
from edgellama.quant.typing_backports import Self


class LocalEngine(TextEngine):
    """Joins what computes, and keeps it as its user wants it; a context manager."""

    def __init__(
        self,
        file: GGUFFile,
        *,
        num_threads: int | None = None,
        tier: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        kv_type: KVTypeChoice = "f16",
        cache_limit: int = 0,
        exact: bool = False,
        rope_scaling: str | None = None,
        layers: range | None = None,
        hooks: Sequence[Hook] = (),
        attention: AttentionChoice = ON_CPU,
        timer: StepTimer | None = None,
        companions: Iterable[str] = (),
    ) -> None:
        """Compile what is missing and start the threads.

        ``progress`` hears of (compiled, total) kernels, and only if any must be compiled; then
        ``companions`` are compiled in the background, for other models. So are first the kernels
        that check guesses; nothing is guessed until they are there.
        ``kv_type``: of caches, as for ``Llama``, unless one is asked to have another.
        ``cache_limit``: bytes that pages may take which no sequence holds any more.
        ``exact``: the same bits whatever else is in a step, see ``StepKinds``.
        ``rope_scaling``: how positions are scaled, as for ``Llama``; None: as the file says.
        ``layers``: those that run, all by default; without the first, ``forward`` takes the rows
        that the layers before have left, and without the last it gives rows.
        ``hooks`` see every step, and may change it; ``attention``: where it is computed, on a card
        never if ``exact``. ``timer`` is an instrument that runs it.
        Raises ModelFileError, UnsupportedModelError, KernelError or InvalidOptionError.
        """
        if exact and attention.mode == "cuda":
            raise InvalidOptionError(
                'attention is "cuda" and exact is True, which a graphics card does not keep'
            )
        self.config = config_of(file, rope_scaling)
        self.tier = choose_tier(tier)
        self.step_tokens = step_tokens(self.config)
        self.layers = checked_layers(layers, self.config.block_count)
        self._file, self._is_exact = file, exact
        self._hooks: tuple[Hook, ...] = ()
        self._pools = PagePools(
            self.config, kv_type,
            lanes=self.tier.lanes, num_layers=len(self.layers),
            limit_bytes=cache_limit, rope_scaling=rope_scaling,
        )  # fmt: skip
        self._machine = machine = Machinery(
            file, self.config, self.tier,
            num_threads=num_threads, layers=self.layers, is_exact=exact, timer=timer,
        )  # fmt: skip
        self._needed = needed = NeededKernels(machine, self.pool().layout)
        needed.compile(progress, companions, is_timed=timer is not None)
        buffers = machine.open().buffers
        self.adapters = AdapterShelf(
            file, self.config, buffers.num_rows, buffers.panel_rows, needed.compile_adapter
        )
        machine.start()
        self._steps = steps = StepRuns(machine, self.config.vocab_size, timer)
        self.scheduler = Scheduler(
            steps.run, self.step_tokens, are_all_split=exact, may_guess=needed.can_guess
        )
        self._idle_watch = IdleWatch(self)
        machine.on_reload = self._idle_watch.begin
        self._placement: LatePlacement | None = None
        if attention.is_for_cards and not exact:
            try:
                self._use_cards(attention, cache_limit, progress)
            except BaseException:
                self.close()
                raise
        if hooks:
            self.hooks = tuple(hooks)
        return_free_heap()
        call_after_fork(self._lose_threads)

    def _lose_threads(self) -> None:
        """In a forked process only the thread is left that has forked."""
        self._idle_watch.lose_thread()
        if self.scheduler.lose_threads():
            self._machine.lose_threads()

    def _use_cards(
        self,
        attention: AttentionChoice,
        cache_limit: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Let sequences lie on a graphics card, which is made ready if it was asked for."""
        between = BetweenSteps(self._machine, self.config, self.tier, self.scheduler)
        placement = LatePlacement(
            attention, self.config, cache_limit, self._machine.card_bytes, between.measure,
            between.show_buffers,
        )  # fmt: skip
        self._placement = self._steps.card = placement
        placement.prepare(PageLayout.of(self.config, self._pools.usual, self.tier.lanes), progress)

    def pool(self, kv_type: KVTypeChoice | None = None) -> PagePool:
        """The pages of all sequences whose keys and values are of these types."""
        return self._pools.of(kv_type)

    @property
    def weights(self) -> ModelWeights:
        """The model's tensors; EdgellamaError once the engine is closed."""
        return self.scheduler.exclusively(self._machine.open_weights)

    @property
    def output_norm(self) -> FloatRows:
        """See ``TextEngine.output_norm``; a copy, which holds nothing back."""
        return self.weights.output_norm.copy()

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """What sees every step; others hold from the next step on.

        What earlier texts have left is not found any more then, since it may differ.
        """
        return self._hooks

    @hooks.setter
    def hooks(self, hooks: Sequence[Hook]) -> None:
        def change() -> None:
            self._machine.set_hooks(tuple(hooks))
            self._hooks = tuple(hooks)
            self._pools.change_origin(bool(hooks))
            self._clear_pools()

        self.scheduler.exclusively(change)

    @property
    def num_threads(self) -> int:
        """How many threads compute; other numbers hold from the next step on."""
        return self._machine.num_threads

    @num_threads.setter
    def num_threads(self, number: int) -> None:
        self._restart(checked_num_threads(number), self.low_priority)

    @property
    def progress(self) -> int:
        """Another number whenever the running step has come a bit further; for any thread."""
        return self._steps.progress

    @property
    def low_priority(self) -> bool:
        """Whether the threads give way to other programs, but for those that wait for texts."""
        return self._machine.is_low_priority

    @low_priority.setter
    def low_priority(self, is_low: bool) -> None:
        self._restart(self.num_threads, is_low)

    @property
    def idle_seconds(self) -> float | None:
        """After how long without a step ``unload`` is called; None is never."""
        return self._idle_watch.seconds

    @idle_seconds.setter
    def idle_seconds(self, seconds: float | None) -> None:
        self._idle_watch.seconds = seconds

    @property
    def card_placement(self) -> LatePlacement | None:
        """What places sequences on a graphics card; None where nobody has asked for one."""
        return self._placement

    @property
    def card_use(self) -> CardUse | None:
        """How a graphics card is used; None where attention is always the CPU's."""
        return None if self._placement is None else self._placement.use

    @property
    def is_loaded(self) -> bool:
        """Whether weights are mapped and threads are there, which the next step sees to."""
        return self._machine.runner is not None

    @property
    def num_jobs(self) -> int:
        """A number that grows with every step."""
        return self._machine.team.next_job

    def load(self) -> None:
        """Have everything that a step needs; EdgellamaError once the engine is closed."""
        self.scheduler.exclusively(self._machine.open)

    def unload(self) -> None:
        """Give back weights, buffers, threads and pages without a sequence until the next step.

        The file is closed meanwhile. ModelFileError at that step, if another lies in its place.
        """

        def unload() -> None:
            self._machine.unload()
            self._clear_pools()
            if self._placement is not None:
                self._placement.rest()

        self.scheduler.refuse_within_a_step()
        self.scheduler.exclusively(unload)
        # The heap is given back outside of the lock, so that steps of others need not wait.
        return_free_heap()

    @property
    def kernels(self) -> CompiledKernels:
        """The compiled code, for what is done with logits besides."""
        return self._machine.kernels

    @property
    def num_compiled(self) -> int:
        """Kernels that the cache of compiled code did not have when this engine wanted them."""
        return self._machine.kernels.num_compiled

    def stop_step(self) -> None:
        """End the running step, if it may be long; who still wants it begins it anew."""
        self._steps.stop()

    def close(self) -> None:
        """Stop the running step and the threads, and let go of the file's weights.

        The engine is unusable afterwards.
        """
        self._idle_watch.close()
        self._machine.refuse()
        self._steps.stop()

        def close() -> None:
            self._machine.release()
            self._pools.close()
            if self._placement is not None:
                self._placement.clear()
                self._placement.close()

        self.scheduler.exclusively(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _restart(self, num_threads: int, is_low_priority: bool) -> None:
        self.scheduler.refuse_within_a_step()
        self.scheduler.exclusively(lambda: self._machine.restart(num_threads, is_low_priority))

    def _clear_pools(self) -> None:
        """Give back pages that no sequence holds."""
        self._pools.clear()
        if self._placement is not None:
            self._placement.clear()

    def usual_kernels(self) -> set[str]:
        """Names of a chat's kernels: all kinds of steps, one token's logits, the next's choice."""
        return self._needed.usual
