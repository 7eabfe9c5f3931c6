"""An engine whose layers run on stages.

Sampling, constraints, guesses, streams, sessions, batches, vectors and adapters run over it
unchanged, and so do hooks, whose functions run in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgellama.cluster.driver.beginnings import Beginnings
from edgellama.cluster.driver.pipeline import PATIENCE_S, Pipeline
from edgellama.cluster.driver.rounds import Chunking
from edgellama.cluster.driver.saved_stages import SavedStages
from edgellama.cluster.driver.spread_sequence import SpreadSequence
from edgellama.cluster.driver.spread_steps import SpreadSteps
from edgellama.cluster.stages.stage_call import StageHandle
from edgellama.cluster.stages.stage_hooks import DriverHooks
from edgellama.cluster.stages.stage_task import HooksWanted, Priority, Tokens
from edgellama.engine.model_identity import model_identity
from edgellama.engine.pages.kv_types import KVTypeChoice, KVTypes
from edgellama.engine.pages.page_keys import hook_origin
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.program.hooks import Hook
from edgellama.engine.program.step_sizes import step_tokens
from edgellama.engine.saved.cache_maker import CacheMaker
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.scheduler import Scheduler
from edgellama.engine.scheduling.work import Work
from edgellama.engine.steps.segments import Wanted
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.engine.weights.adapter_shelf import AdapterShelf
from edgellama.engine.weights.weights import load_weights
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels, choose_tier
from edgellama.kernels_cpu.sampling.chooser import CHOICE_KERNEL
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.rope_choice import config_of
from edgellama.sampling.choice_order import ChoiceOrder
from edgellama.sampling.share_order import ShareOrder

if TYPE_CHECKING:
    from edgellama.engine.pages.text_cache import TextCache

CHUNK_TOKENS = 256
"""Tokens of a prompt that a stage computes while the next one has those before."""
CHUNKS_AT_ONCE = 32
"""Chunks of a prompt between two moments at which others may run and progress is told."""


class SpreadEngine(TextEngine):
    """A model whose layers run on ``stages``. Thread-safe, as ``Engine`` is."""

    orders_choices = True

    def __init__(
        self,
        file: GGUFFile,
        stages: Sequence[StageHandle],
        *,
        kv_type: KVTypeChoice = "f16",
        rope_scaling: str | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """``kv_type`` and ``rope_scaling``: what the stages have, which compute by them.

        ``chunk_tokens``: of a prompt, for a stage at a time; ``patience_s``: see ``Pipeline``.
        Ended texts are forgotten once keys and values on all stages take more than one text as long
        as the model's context does; ``beginnings.limit_bytes`` sets another limit.
        Raises InvalidOptionError for stages that do not have all layers.
        """
        self.config = config_of(file, rope_scaling)
        if chunk_tokens < 1:
            raise InvalidOptionError(f"chunk_tokens is {chunk_tokens}; allowed: at least 1")
        own_tokens = step_tokens(self.config)
        chunk_tokens = min(chunk_tokens, own_tokens)
        self._pipeline = Pipeline(stages, Chunking(chunk_tokens, own_tokens), patience_s=patience_s)
        if (end := stages[-1].layers.stop) != self.config.block_count:
            raise InvalidOptionError(
                f"the last stage ends before layer {end}; the model has {self.config.block_count}"
            )
        self.layers = range(self.config.block_count)
        # Adapters are read here for their names and checks; stages read their own copies.
        self.adapters = AdapterShelf(file, self.config, 1, 1, lambda kernels, progress: None)
        self._file = file
        self.tier = choose_tier(None)
        self._kernels = CompiledKernels(self.tier)
        self._kernels.ensure([CHOICE_KERNEL])
        self._kv_types = KVTypes.of(kv_type)
        self._rope_scaling = rope_scaling
        limit_bytes = self.bytes_of(self.config.context_length)
        self.beginnings = Beginnings(self._pipeline.retire, self.bytes_of, limit_bytes)
        self.step_tokens = max(own_tokens, CHUNKS_AT_ONCE * chunk_tokens)
        self._steps = SpreadSteps(self._pipeline, self.beginnings, self.config.vocab_size)
        self.scheduler = Scheduler(self._steps.run, self.step_tokens, may_mix=False)
        self._is_low = False
        self._hooks, self._num_hook_changes = DriverHooks(), 0

    @property
    def kernels(self) -> CompiledKernels:
        """See ``TextEngine.kernels``."""
        return self._kernels

    @cached_property
    def output_norm(self) -> FloatRows:
        """See ``TextEngine.output_norm``; of the driver's own file."""
        return load_weights(self._file, self.config).output_norm.copy()

    def save(
        self, path: Path, cache: TextCache, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """See ``TextEngine.save``; pages come from the stages."""
        sequence = cast(SpreadSequence, cache)
        origin = self._saved_origin(sequence, sequence.begun_with)
        self._files.save(path, sequence, origin, progress)

    def load_saved(self, path: Path, cache: TextCache, *, verify: bool = False) -> None:
        """See ``TextEngine.load_saved``; pages go to the stages."""
        sequence = cast(SpreadSequence, cache)
        origin = self._saved_origin(sequence, self.beginnings.origin)
        self._files.load(path, sequence, origin, verify=verify)

    @cached_property
    def _files(self) -> SavedStages:
        layout = PageLayout.of(self.config, self._kv_types, self.tier.lanes)
        maker = CacheMaker(
            model=model_identity(self._file),
            model_name=str(self._file.metadata.get("general.name") or self._file.path.stem),
            layers=self.layers,
            vocab_size=self.config.vocab_size,
            arithmetic="",
            is_exact=False,
        )
        return SavedStages(self._pipeline, self.scheduler, layout, maker)

    def _saved_origin(self, sequence: SpreadSequence, origin: bytes) -> bytes:
        return origin + (self._rope_scaling or "").encode() + sequence.adapters.origin

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """What sees every step; its functions run here, with rows that stages send."""
        return self._hooks.hooks

    @hooks.setter
    def hooks(self, hooks: Sequence[Hook]) -> None:
        given = DriverHooks(hooks)
        self.scheduler.refuse_within_a_step()

        def change() -> None:
            for stage in self._pipeline.stages if hooks or self._hooks.hooks else ():
                stage.call_hooks(given.answer)
            self._hooks, self._pipeline.is_in_turn = given, bool(hooks)
            self._num_hook_changes += 1
            origin = hook_origin(self._num_hook_changes, bool(hooks))
            self.beginnings.change_origin(origin)
            self._pipeline.do_always(HooksWanted(given.places))

        self.scheduler.exclusively(change)

    @property
    def low_priority(self) -> bool:
        """Whether the stages' threads give way to other programs on their machines."""
        return self._is_low

    @low_priority.setter
    def low_priority(self, is_low: bool) -> None:
        self.scheduler.refuse_within_a_step()
        self.scheduler.exclusively(lambda: self._pipeline.do_always(Priority(is_low)))
        self._is_low = is_low

    @property
    def num_jobs(self) -> int:
        """A number that grows with every step."""
        return self._steps.num_jobs

    @property
    def stages(self) -> Sequence[StageHandle]:
        """The stages in order."""
        return self._pipeline.stages

    def new_cache(
        self,
        context_length: int | None = None,
        *,
        kv_type: KVTypeChoice | None = None,
        adapters: AdapterSet = NO_ADAPTERS,
        is_passing: bool = False,
    ) -> SpreadSequence:
        """A sequence that holds nothing; ``kv_type`` is the stages' own in any case."""
        length = self.config.context_length if context_length is None else context_length
        return SpreadSequence(
            length, self.beginnings, self._pipeline.fork,
            window=self.config.sliding_window, dynamic_from=self.config.rope.dynamic_from,
            adapters=adapters, is_passing=is_passing,
        )  # fmt: skip

    def order_choice(self, cache: TextCache, order: object) -> None:
        """See ``TextEngine.order_choice``; it is the last stage that chooses."""
        assert isinstance(order, (ChoiceOrder, ShareOrder))
        cast(SpreadSequence, cache).next_order = order

    def work(self, tokens: Sequence[int] | Tokens, cache: TextCache, **how: Any) -> Work:
        """See ``TextEngine.work``. StageLostError, in time, where a stage does not come back."""
        cast(SpreadSequence, cache).take_order()
        return super().work(tokens, cache, **how)

    def forward(
        self,
        tokens: Sequence[int] | Tokens,
        cache: TextCache,
        *,
        logits: Wanted = "last",
        rows: FloatRows | None = None,
        cancelled: CancelToken | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FloatRows:
        """See ``TextEngine.forward``. A single token that goes on as the last did is quicker."""
        is_one = isinstance(tokens, list) and len(tokens) == 1 and type(tokens[0]) is int
        if is_one and logits in ("last", 1) and rows is None and progress is None:
            found = self._run_next(tokens[0], cast("SpreadSequence", cache), cancelled)
            if found is not None:
                return found
        return super().forward(
            tokens, cache, logits=logits, rows=rows, cancelled=cancelled, progress=progress
        )

    def _run_next(
        self, token: int, sequence: SpreadSequence, cancelled: CancelToken | None
    ) -> FloatRows | None:
        """What a step gives; None if a token is not like the last one."""
        given = sequence.next_call(token)
        is_cancelled = cancelled is not None and cancelled.cancelled
        if given is None or self._steps.is_closed or is_cancelled:
            return None

        return self.scheduler.run_alone(sequence, lambda: self._steps.run_next(given, sequence))

    def close(self) -> None:
        """End all stages, after the running step."""

        def close() -> None:
            if not self._steps.is_closed:
                self._steps.is_closed = True
                self._pipeline.close()

        self.scheduler.exclusively(close)

    def bytes_of(self, num_tokens: int) -> int:
        """What keys and values of so many tokens take on all stages."""
        if not num_tokens:
            return 0
        layout = PageLayout.of(self.config, self._kv_types, self.tier.lanes)
        return layout.used_bytes(num_tokens, self.config.sliding_window)
