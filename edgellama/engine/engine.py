"""The engine: runs steps of a Llama over token ids, on its own threads.

It offers sequences, steps, saved sequences, and calls for instruments. It knows no text, sampling
or sessions. ``local_engine`` owns what it holds meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
import numpy.typing as npt

from edgellama.engine.local_engine import LocalEngine
from edgellama.engine.model_identity import model_identity
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.kv_types import KVTypeChoice
from edgellama.engine.pages.text_cache import TextCache
from edgellama.engine.program.program import Op
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.saved.cache_maker import CacheMaker
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.steps.segments import ROWS, Wanted, method_of
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.kernels_cpu.compiling.source_hash import source_hash
from edgellama.quant.array_types import FloatRows

__all__ = ["CancelToken", "Engine"]


class Engine(LocalEngine):
    """A model whose layers run on threads of this process.

    Thread-safe: callers who wait at the same time share steps of up to ``step_tokens`` tokens.
    """

    def new_cache(
        self,
        context_length: int | None = None,
        *,
        kv_type: KVTypeChoice | None = None,
        adapters: AdapterSet = NO_ADAPTERS,
        is_passing: bool = False,
    ) -> KVCache:
        """See ``TextEngine.new_cache``."""
        length = self.config.context_length if context_length is None else context_length
        pool, window = self.pool(kv_type), self.config.sliding_window
        return KVCache(
            pool, length, window=window, adapters=adapters,
            dynamic_from=self.config.rope.dynamic_from, is_passing=is_passing,
            placement=self._placement,
        )  # fmt: skip

    def forward(
        self,
        tokens: Sequence[int] | npt.NDArray[np.int32],
        cache: TextCache,
        *,
        logits: Wanted = "last",
        rows: FloatRows | None = None,
        cancelled: CancelToken | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FloatRows:
        """See ``TextEngine.forward``. A single token that goes on as the last did is quicker."""
        started = perf_counter()
        is_one = isinstance(tokens, list) and len(tokens) == 1
        if is_one and logits in ("last", 1) and rows is None and progress is None:
            # run_next does nothing for a cache that was not in this engine's last step.
            repeated = self._steps.run_next(tokens[0], cache, cancelled, self.scheduler)  # type: ignore[arg-type]
            if repeated is not None:
                self.scheduler.costs.note_alone(1, perf_counter() - started)
                return repeated
        result = super().forward(
            tokens, cache, logits=logits, rows=rows, cancelled=cancelled, progress=progress
        )
        if len(result) == len(tokens) <= MAX_SHORT_TOKENS and logits not in ROWS:
            self.scheduler.costs.note_alone(len(tokens), perf_counter() - started)
        return result

    def next_row(
        self,
        token: int,
        cache: KVCache,
        rows: FloatRows | None,
        *,
        is_rehearsal: bool = False,
    ) -> FloatRows | None:
        """What the last step gave, of the next token; None, and nothing is done, if it cannot be.

        That is a step of one token whose "rows" or logits were wanted. It is the engine's own
        memory, for a caller that keeps all others away. ``rows``: as for ``forward``.
        ``is_rehearsal``: nothing is computed, but what that takes is done once, so that the
        processor's caches have it; None.
        """
        last = self._machine.last_step
        if last is None:
            return None
        return self._steps.run_next(
            token, cache, None, self.scheduler,
            rows=rows, gives_rows=last.gives_rows, is_copied=False, is_rehearsal=is_rehearsal,
        )  # fmt: skip

    @cached_property
    def cache_maker(self) -> CacheMaker:
        """What saved keys and values must be of to be used here; EdgellamaError once closed.

        The first time it reads samples of all tensors; ModelFileError if the file was cut.
        """
        self.scheduler.exclusively(self._machine.open_weights)
        rounding = f"{self.tier.arithmetic} {(source_hash() or 'unknown')[:16]}"
        return CacheMaker(
            model=model_identity(self._file),
            model_name=str(self._file.metadata.get("general.name") or self._file.path.stem),
            layers=self.layers,
            vocab_size=self.config.vocab_size,
            arithmetic=f"{'exact' if self._is_exact else 'fast'} {rounding}",
            is_exact=self._is_exact,
        )

    def save(
        self, path: Path, cache: TextCache, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """See ``TextEngine.save``."""
        from edgellama.engine.saved.saved_cache import save_cache

        save_cache(path, cast(KVCache, cache), self.cache_maker, progress)

    def load_saved(self, path: Path, cache: TextCache, *, verify: bool = False) -> None:
        """See ``TextEngine.load_saved``."""
        from edgellama.engine.saved.saved_cache import load_cache

        load_cache(path, cast(KVCache, cache), self.cache_maker, verify=verify)

    def step_ops(self, num_tokens: int, kv_type: KVTypeChoice | None = None) -> list[Op]:
        """The ops of a step of one sequence's tokens and of the last one's logits."""
        runner = self._machine.open()
        kind = runner.kinds.kind_of(num_tokens, method_of(num_tokens))
        return runner.step_ops(self.pool(kv_type).layout).of(kind)

    def run_ops(self, name: str, ops: Callable[[], list[Op]]) -> float:
        """Run an instrument's own ops between two steps; the seconds that they took.

        ``ops`` is asked once for each ``name``; the caller keeps the memory that they name.
        """

        def run() -> float:
            machine = self._machine
            held = machine.open()
            machine.check_file()
            machine.last_step = None
            program = machine.program(("instrument", name), ops)
            program.prepare(machine.team.next_job)
            started = perf_counter()
            machine.team.run(program.memory, owner=program)
            del held
            return perf_counter() - started

        return self.scheduler.exclusively(run)
