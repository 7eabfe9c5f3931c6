"""The interface of an engine for texts, shared by engines here and on other machines.

It checks a call's arguments, lets the scheduler run it together with others, and returns its rows.
The two kinds of engines run the steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgellama.engine.card.use import CardUse
from edgellama.engine.engine_arguments import check_wanted, checked_tokens
from edgellama.engine.pages.kv_types import KVTypeChoice
from edgellama.engine.pages.text_cache import TextCache
from edgellama.engine.program.hooks import Hook
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.scheduler import Scheduler
from edgellama.engine.scheduling.work import Kept, Work
from edgellama.engine.steps.segments import ROWS, Wanted
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.engine.weights.adapter_shelf import AdapterShelf
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.process_bound import ProcessBound


class TextEngine(ProcessBound, ABC):
    """A model ready to run over token ids; a context manager.

    ``layers`` run, in steps of up to ``step_tokens`` tokens that callers share.
    """

    config: ModelConfig
    layers: range
    tier: Tier
    step_tokens: int
    scheduler: Scheduler
    adapters: AdapterShelf
    orders_choices: ClassVar[bool] = False
    """Whether tokens are chosen far from here, see ``order_choice``."""

    @property
    def card_use(self) -> CardUse | None:
        """How a graphics card is used; None for engines that use none."""
        return None

    @property
    @abstractmethod
    def kernels(self) -> CompiledKernels:
        """The compiled code, for what is done with logits besides."""

    @property
    @abstractmethod
    def output_norm(self) -> FloatRows:
        """The weights (embedding_length,) of the norm behind the last layer."""

    @property
    @abstractmethod
    def low_priority(self) -> bool:
        """Whether the threads that compute give way to other programs."""

    @low_priority.setter
    @abstractmethod
    def low_priority(self, is_low: bool) -> None: ...

    @property
    @abstractmethod
    def hooks(self) -> tuple[Hook, ...]:
        """What sees every step, and may change it."""

    @hooks.setter
    @abstractmethod
    def hooks(self, hooks: tuple[Hook, ...]) -> None: ...

    @abstractmethod
    def new_cache(
        self,
        context_length: int | None = None,
        *,
        kv_type: KVTypeChoice | None = None,
        adapters: AdapterSet = NO_ADAPTERS,
        is_passing: bool = False,
    ) -> TextCache:
        """A cache for one sequence; ``context_length`` defaults to the model's own.

        ``kv_type`` defaults to the engine's; ``adapters``, of this engine's shelf, are what its
        tokens are computed with; of a passing text nothing is kept for later ones. Raises
        InvalidOptionError.
        """

    @abstractmethod
    def save(
        self, path: Path, cache: TextCache, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Write the tokens of a cache with their keys and values, see ``save_cache``."""

    @abstractmethod
    def load_saved(self, path: Path, cache: TextCache, *, verify: bool = False) -> None:
        """Take tokens with their keys and values from a file, see ``load_cache``."""

    @abstractmethod
    def close(self) -> None:
        """Let everything go, after the running step; the engine is unusable afterwards."""

    def stop_step(self) -> None:
        """End the running step, if it may be long; who still wants it begins it anew."""

    def order_choice(self, cache: TextCache, order: object) -> None:
        """Let the next step of a sequence end with tokens, chosen as ordered, in place of logits.

        Each is a row of one number. Only where logits would have to be sent here for it.
        """
        raise EdgellamaError("tokens are chosen where this engine's logits are: here")

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
        """Append ``tokens`` to the cache; logits (tokens, vocab_size) as a new array.

        ``logits``: of the "last" token, of "all", of "none", or of so many at the end; "rows"
        gives the residual stream (n, embedding_length) after the last layer
        that runs here; ``rows`` is what the layers before the first one here have left.
        Raises ContextLengthError when they do not fit, GenerationCancelled when the token is
        set; the cache then holds the steps that were complete. ``progress`` hears of
        (tokens done, tokens in all) after each step.
        """
        work = self.work(
            tokens, cache, logits=logits, rows=rows, cancelled=cancelled, progress=progress
        )
        if not work.is_over:
            self.scheduler.run(work)
        is_rows = logits in ROWS
        return work.result(self.config.embedding_length if is_rows else self.config.vocab_size)

    def work(
        self,
        tokens: Sequence[int] | npt.NDArray[np.int32],
        cache: TextCache,
        *,
        logits: Wanted = "last",
        rows: FloatRows | None = None,
        cancelled: CancelToken | None = None,
        progress: Callable[[int, int], None] | None = None,
        kept: Kept | None = None,
    ) -> Work:
        """The same, for the scheduler to run together with others' works.

        ``kept``: what the result has of the rows that each step gives; all of them by default.
        """
        ids = checked_tokens(tokens, cache, self.config)
        check_wanted(logits, rows, len(ids), self.layers, self.config)
        cache.settle(cache.length + len(ids))
        return Work(cache, ids, logits, cancelled, progress, rows, kept)
