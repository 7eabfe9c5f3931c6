"""A stage: neighbouring layers of a model on one machine, with keys and values of their own.

It computes what it is told to, as often as it is told; which tokens come next, and what becomes
of a lost stage, is the driver's business. Nothing here knows how calls arrive.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from edgellama.cluster.adapter_uses import adapters_of
from edgellama.cluster.stage_call import Answer, Behind, FloatRows, StageCall, Tokens
from edgellama.engine.engine import Engine
from edgellama.engine.engine_arguments import check_wanted, checked_tokens
from edgellama.engine.model_identity import model_identity
from edgellama.engine.segments import ALIKE, ROWS
from edgellama.engine.work import Work
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.errors import EdgellamaError, InvalidOptionError, ModelFileError
from edgellama.quant.gguf.file import GGUFFile, require_model
from edgellama.sampling.choice_order import OrderedChoices

if TYPE_CHECKING:
    from edgellama.engine.kv_cache import KVCache
    from edgellama.engine.kv_types import KVTypeChoice
    from edgellama.engine.segments import Wanted
    from edgellama.kernels_cpu.compiling.compile_pool import Progress
    from edgellama.sampling.choice_order import ChoiceOrder


class Stage:
    """Layers ``layers`` of ``file``. A context manager; callers on other threads wait in turn.

    Example:
        >>> from edgellama.cluster.stage import Stage
        >>> from edgellama.models.names import resolve
        >>> from edgellama.quant.gguf.file import GGUFFile
        >>> with GGUFFile(resolve("smollm2")) as file, Stage(file, range(15)) as stage:
        ...     rows = stage.step(0, 0, [1, 2, 3])
        ...     rows.shape, stage.num_held(0)
        ((3, 576), 3)
    """

    def __init__(
        self,
        file: GGUFFile,
        layers: range,
        *,
        num_threads: int | None = None,
        kv_type: KVTypeChoice = "f16",
        exact: bool = False,
        rope_scaling: str | None = None,
        memory_limit: int | None = None,
        identity: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Map the layers and start threads, as an ``Engine`` does.

        ``memory_limit``: bytes that keys and values may take; the sequences whose turn is longest
        ago are forgotten for others. None: no limit. ``identity``: the ``model_identity`` that the
        file must have. Raises as Engine, and ModelFileError for another model.
        """
        require_model(file)
        if identity is not None and (found := model_identity(file)) != identity:
            raise ModelFileError(
                f"{file.path}: another model than the driver's (identity {found}; needed: "
                f"{identity}); every machine needs the same file"
            )
        if memory_limit is not None and memory_limit < 1:
            raise InvalidOptionError(f"memory_limit is {memory_limit}; allowed: None or from 1")
        self._engine = Engine(
            file, layers=layers, num_threads=num_threads, kv_type=kv_type, exact=exact,
            rope_scaling=rope_scaling, progress=progress,
        )  # fmt: skip
        self.layers = self._engine.layers
        self._memory_limit = memory_limit
        # The least recently used first.
        self._caches: OrderedDict[int, KVCache] = OrderedDict()
        self._chosen: dict[int, OrderedChoices] = {}
        self._turn = threading.Lock()

    @property
    def is_first(self) -> bool:
        """Whether tokens come in, rather than rows."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether logits go out, rather than rows."""
        return self.layers.stop == self._engine.config.block_count

    def num_held(self, sequence: int) -> int:
        """Tokens of a sequence whose keys and values are here."""
        cache = self._caches.get(sequence)
        return 0 if cache is None else cache.length

    def step(
        self,
        sequence: int,
        position: int,
        tokens: Tokens | list[int],
        *,
        rows: FloatRows | None = None,
        wanted: Wanted = "last",
        prompt_length: int = 0,
    ) -> FloatRows:
        """One call alone, see ``StageCall``; EdgellamaError where it cannot be computed."""
        ids = np.asarray(tokens, np.int32)
        (answer,) = self.run([StageCall(sequence, position, ids, wanted, rows, prompt_length)])
        if isinstance(answer, EdgellamaError):
            raise answer
        if isinstance(answer, Behind):
            raise EdgellamaError(f"position {position} of {answer}")
        return answer

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """Compute calls of different sequences in shared steps.

        What a sequence holds from a call's position on is forgotten before, so that a call may be
        repeated. What is wrong with one call is its answer and disturbs no other.
        """
        with self._turn:
            in_use = frozenset(call.sequence for call in calls)
            begun = [self._begun(call, in_use | call.beside) for call in calls]
            works = [work for work in begun if isinstance(work, Work)]
            left = [work for work in works if not work.is_over]
            while left:
                self._engine.scheduler.run_any(left, caller=self)
                left = [work for work in left if not work.is_over]
            return [
                self._result(work, call) if isinstance(work, Work) else work
                for work, call in zip(begun, calls, strict=True)
            ]

    def forget(self, sequence: int) -> None:
        """Give the memory of a sequence back; nothing happens for unknown ones."""
        with self._turn:
            self._drop(sequence)

    def close(self) -> None:
        """Forget all sequences and stop the threads; the file stays open."""
        with self._turn:
            for sequence in list(self._caches):
                self._drop(sequence)
            self._engine.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _drop(self, sequence: int) -> None:
        self._chosen.pop(sequence, None)
        cache = self._caches.pop(sequence, None)
        if cache is not None:
            cache.close()

    def _begun(self, call: StageCall, in_use: frozenset[int]) -> Work | Behind | EdgellamaError:
        """The work of a call, with its sequence cut at the call's position."""
        try:
            return self._work(call, in_use)
        except EdgellamaError as error:
            return error

    def _work(self, call: StageCall, in_use: frozenset[int]) -> Work | Behind:
        cache = self._caches.get(call.sequence)
        if cache is None:
            if call.position:
                return Behind(call.sequence, 0)
            cache = self._caches[call.sequence] = self._engine.new_cache(is_passing=True)
        self._caches.move_to_end(call.sequence)
        if call.adapters or cache.adapters:
            # The same object for the same adapters, so that nothing is forgotten then.
            cache.adapters = adapters_of(self._engine.adapters, call.adapters)
        cache.truncate(min(call.position, cache.length))
        if cache.length != call.position:
            return Behind(call.sequence, cache.length)
        rows: Wanted = "alike_rows" if call.wanted in ALIKE else "rows"
        wanted = call.wanted if self.is_last else rows
        ids = checked_tokens(call.tokens, cache, self._engine.config)
        check_wanted(wanted, call.rows, len(ids), self.layers, self._engine.config)
        self._make_room(cache, len(ids), in_use)
        work = Work(cache, ids, wanted, rows=call.rows)
        if not call.position:
            cache.begin(call.prompt_length or len(ids))
        return work

    def _make_room(self, cache: KVCache, num_tokens: int, in_use: frozenset[int]) -> None:
        """Forget idle sequences until there is memory for more tokens of one."""
        if self._memory_limit is None:
            return
        num_pages = -(-(cache.length + num_tokens) // PAGE_POSITIONS)
        needed = max(cache.num_bytes, num_pages * cache.layout.page_bytes)
        for other in [number for number in self._caches if number not in in_use]:
            if needed + self._bytes_besides(cache) <= self._memory_limit:
                return
            self._drop(other)
        if (total := needed + self._bytes_besides(cache)) > self._memory_limit:
            raise EdgellamaError(
                f"layers {self.layers.start} to {self.layers.stop - 1}: keys and values would take "
                f"{total / 1e6:.1f} MB; allowed here are {self._memory_limit / 1e6:.1f} MB"
            )

    def _bytes_besides(self, cache: KVCache) -> int:
        return sum(other.num_bytes for other in self._caches.values() if other is not cache)

    def _result(self, work: Work, call: StageCall) -> Answer:
        config, is_rows = self._engine.config, work.wanted in ROWS
        try:
            rows = work.result(config.embedding_length if is_rows else config.vocab_size)
            if call.order is None or is_rows:
                return rows
            return self._choices(call.sequence, call.order).tokens(
                call.order, rows, work.cache.tokens
            )
        except EdgellamaError as error:
            return error

    def _choices(self, sequence: int, order: ChoiceOrder) -> OrderedChoices:
        """What chooses the tokens of the text that a sequence has now."""
        found = self._chosen.get(sequence)
        if found is None or found.plan.number != order.plan.number:
            found = OrderedChoices(order.plan, self._engine.kernels)
            self._chosen[sequence] = found
        return found
