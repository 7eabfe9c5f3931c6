"""A stage: neighbouring layers of a model on one machine, with keys and values of their own.

It computes what each call asks for, as often as it is asked. The driver knows which tokens come
next, and what to do about a lost stage.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import numpy as np

from edgellama.cluster.stages.adapter_uses import adapters_of
from edgellama.cluster.stages.held_sequences import HeldSequences
from edgellama.cluster.stages.next_token import LastCall, NextToken
from edgellama.cluster.stages.stage_call import Answer, Behind, Order, StageCall
from edgellama.cluster.stages.stage_hooks import AnswerHook, StageHooks
from edgellama.cluster.stages.stage_task import StageTask, Tokens
from edgellama.cluster.stages.stage_tasks import StageTasks
from edgellama.engine.engine import Engine
from edgellama.engine.engine_arguments import check_wanted, checked_tokens
from edgellama.engine.model_identity import model_identity
from edgellama.engine.scheduling.work import Work
from edgellama.engine.steps.segments import ALIKE, ROWS
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import EdgellamaError, ModelFileError
from edgellama.quant.gguf.file import GGUFFile, require_model
from edgellama.sampling.choice_order import OrderedChoices
from edgellama.sampling.share_order import ShareOrder, choice_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellama.engine.pages.kv_cache import KVCache
    from edgellama.engine.pages.kv_types import KVTypeChoice
    from edgellama.engine.pages.text_cache import TextCache
    from edgellama.engine.steps.segments import Wanted
    from edgellama.kernels_cpu.compiling.compile_pool import Progress
    from edgellama.sampling.choice_order import ChoiceOrder


class Stage:
    """Layers ``layers`` of ``file``. A context manager; callers on other threads wait in turn.

    Example:
        >>> from edgellama.cluster.stages.stage import Stage
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
        held = HeldSequences(memory_limit)
        self._engine = Engine(
            file, layers=layers, num_threads=num_threads, kv_type=kv_type, exact=exact,
            rope_scaling=rope_scaling, progress=progress,
        )  # fmt: skip
        self.layers = self._engine.layers
        self._held = held
        self._hooks = StageHooks()
        self._tasks = StageTasks(self._engine, held, self._hooks)
        self._chosen: dict[int, OrderedChoices] = {}
        self._last: LastCall | None = None
        self._turn = threading.Lock()
        self._num_messages = 0

    @property
    def is_first(self) -> bool:
        """Whether tokens come in, rather than rows."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether logits go out, rather than rows."""
        return self.layers.stop == self._engine.config.block_count

    @property
    def progress(self) -> tuple[int, int]:
        """Other numbers whenever the work that is done here has come a bit further.

        They stay what they are while a step hangs, as one whose file lies on a disk that has gone.
        """
        return self._num_messages, self._engine.progress

    def num_held(self, sequence: int) -> int:
        """Tokens of a sequence whose keys and values are here."""
        cache = self._held.find(sequence)
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
        """One call alone, see ``StageCall``; EdgellamaError if it cannot be computed."""
        ids = np.asarray(tokens, np.int32)
        (answer,) = self.run([StageCall(sequence, position, ids, wanted, rows, prompt_length)])
        if isinstance(answer, EdgellamaError):
            raise answer
        if isinstance(answer, Behind):
            raise EdgellamaError(f"position {position} of {answer}")
        return answer

    def run(self, calls: list[StageCall], driver: AnswerHook | None = None) -> list[Answer]:
        """Compute calls of different sequences in shared steps.

        What a sequence holds from a call's position on is forgotten before, so that a call may be
        repeated. What is wrong with one call is its answer and disturbs no other. ``driver`` is
        asked where there are hooks; what it raises is raised.
        """
        with self._turn:
            self._hooks.driver = driver
            in_use = frozenset(call.sequence for call in calls)
            begun = [self._begun(call, in_use | call.beside) for call in calls]
            works = [work for work in begun if isinstance(work, Work)]
            self._last = None
            self._engine.scheduler.run_only(works)
            answers = [
                self._result(work, call) if isinstance(work, Work) else work
                for work, call in zip(begun, calls, strict=True)
            ]
            if len(calls) == len(works) == 1:
                self._remember(calls[0], works[0].cache)
            return answers

    def run_next(self, given: NextToken, *, is_rehearsal: bool = False) -> FloatRows | None:
        """The answer to a call like the last one; None if it must be an ordinary one.

        It is the stage's own memory, until its next call. ``is_rehearsal``: see ``rehearse``.
        """
        with self._turn:
            last = self._last
            if last is None or last.sequence != given.sequence:
                return None
            cache, rows = last.cache, given.rows
            width = self._engine.config.embedding_length
            if cache.length != given.position or (rows is not None and rows.shape[-1] != width):
                return None
            row = self._engine.next_row(given.token, cache, rows, is_rehearsal=is_rehearsal)
            try:
                return None if row is None else last.row_of(given, row)
            except EdgellamaError:
                return None  # An ordinary call finds the same, and tells it.

    def rehearse(self, given: NextToken) -> None:
        """Do all that a call like ``given`` takes but its step; nothing is changed by that."""
        self.run_next(given, is_rehearsal=True)

    def do(self, task: StageTask) -> object:
        """See ``StageHandle.do``."""
        with self._turn:
            return self._tasks.do(task)

    def answer(
        self, message: list[StageCall] | NextToken | StageTask, driver: AnswerHook | None = None
    ) -> object:
        """What ``run``, ``run_next`` or ``do`` gives, for whoever passes messages on."""
        self._num_messages += 1
        if isinstance(message, NextToken):
            return self.run_next(message)
        return self.run(message, driver) if isinstance(message, list) else self.do(message)

    def forget(self, sequence: int) -> None:
        """Give the memory of a sequence back; nothing happens for unknown ones."""
        with self._turn:
            self._chosen.pop(sequence, None)
            if self._last is not None and self._last.sequence == sequence:
                self._last = None
            self._held.drop(sequence)
            self._tasks.forget(sequence)

    def close(self) -> None:
        """Forget all sequences and stop the threads; the file stays open."""
        with self._turn:
            self._held.close()
            self._chosen.clear()
            self._last = None
            self._engine.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begun(self, call: StageCall, in_use: frozenset[int]) -> Work | Behind | EdgellamaError:
        """The work of a call, with its sequence cut at the call's position."""
        try:
            return self._work(call, in_use)
        except EdgellamaError as error:
            return error

    def _work(self, call: StageCall, in_use: frozenset[int]) -> Work | Behind:
        cache = self._held.find(call.sequence)
        if cache is None:
            if call.position:
                return Behind(call.sequence, 0)
            cache = self._held.hold(call.sequence, self._engine.new_cache(is_passing=True))
        if call.adapters or cache.adapters:
            # The shelf gives the same object for the same adapters, so the cache forgets nothing
            # then.
            cache.adapters = adapters_of(self._engine.adapters, call.adapters)
        cache.truncate(min(call.position, cache.length))
        if cache.length != call.position:
            return Behind(call.sequence, cache.length)
        rows: Wanted = "alike_rows" if call.wanted in ALIKE else "rows"
        wanted = call.wanted if self.is_last else rows
        ids = checked_tokens(call.tokens, cache, self._engine.config)
        check_wanted(wanted, call.rows, len(ids), self.layers, self._engine.config)
        self._held.make_room(cache, len(ids), in_use, self.layers)
        work = Work(cache, ids, wanted, rows=call.rows)
        if not call.position:
            cache.begin(call.prompt_length or len(ids))
        return work

    def _result(self, work: Work, call: StageCall) -> Answer:
        config, is_rows = self._engine.config, work.wanted in ROWS
        try:
            rows = work.result(config.embedding_length if is_rows else config.vocab_size)
            if call.order is None or is_rows:
                return rows
            return self._rows_back(call.sequence, call.order, rows, work.cache.tokens)
        except EdgellamaError as error:
            return error

    def _rows_back(
        self, sequence: int, order: Order, rows: FloatRows, history: Sequence[int]
    ) -> FloatRows:
        """The rows that the driver gets in place of logits."""
        if isinstance(order, ShareOrder):
            return order.rows(rows, lambda own, row: self._rows_back(sequence, own, row, history))
        return self._choices(sequence, order).tokens(order, rows, history)

    def _remember(self, call: StageCall, cache: TextCache) -> None:
        """Let the next token of a sequence be said in few words, if it can be."""
        order = choice_of(call.order) if self.is_last else None
        is_told = order is not None or call.order is None or not self.is_last
        if is_told and (order is None or not order.rules):
            choices = None if order is None else self._choices(call.sequence, order)
            self._last = LastCall(call.sequence, cast("KVCache", cache), choices)

    def _choices(self, sequence: int, order: ChoiceOrder) -> OrderedChoices:
        """What chooses the tokens of the text that a sequence has now."""
        found = self._chosen.get(sequence)
        if found is None or found.plan.number != order.plan.number:
            found = OrderedChoices(order.plan, self._engine.kernels)
            self._chosen[sequence] = found
        return found
