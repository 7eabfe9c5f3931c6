"""Carries out the tasks of a stage that are no computation: forks, and moving pages in and out.

``stage`` computes, ``held_sequences`` knows which sequences are held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgellama.cluster.stages.adapter_uses import adapters_of
from edgellama.cluster.stages.held_sequences import HeldSequences
from edgellama.cluster.stages.stage_call import Behind
from edgellama.cluster.stages.stage_hooks import StageHooks
from edgellama.cluster.stages.stage_task import (
    DescriptionWanted,
    Fork,
    HooksWanted,
    PageGiven,
    PageMemory,
    PageWanted,
    Priority,
    Restored,
    StageDescription,
    StageTask,
)
from edgellama.engine.engine import Engine
from edgellama.engine.pages.page_lanes import copy_page
from edgellama.engine.pages.page_pool import Hold
from edgellama.engine.saved.saved_pages import used_part
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.errors import EdgellamaError, InvalidOptionError


class StageTasks:
    """Runs the tasks of one stage, for one thread at a time."""

    def __init__(self, engine: Engine, held: HeldSequences, hooks: StageHooks) -> None:
        self._engine, self._held, self._hooks = engine, held, hooks
        self._given: dict[int, dict[int, Hold]] = {}
        self._ways: dict[type, Callable[[Any], object]] = {
            Fork: held.fork,
            Priority: self._set_priority,
            HooksWanted: self._set_hooks,
            DescriptionWanted: self._described,
            PageWanted: self._page,
            PageGiven: self._keep,
            Restored: self._restore,
        }

    def do(self, task: StageTask) -> object:
        """What a task gives; an EdgellamaError for one that cannot be done."""
        try:
            return self._ways[type(task)](task)
        except EdgellamaError as error:
            return error

    def forget(self, sequence: int) -> None:
        """Let go of pages whose sequence will not be restored."""
        self._given.pop(sequence, None)

    def _set_priority(self, task: Priority) -> bool:
        if self._engine.low_priority != task.is_low:
            self._engine.low_priority = task.is_low
        return task.is_low

    def _set_hooks(self, task: HooksWanted) -> int:
        self._engine.hooks = self._hooks.made(task.places)
        return len(task.places)

    def _described(self, task: DescriptionWanted) -> StageDescription:
        maker = self._engine.cache_maker
        return StageDescription(maker.arithmetic, maker.is_exact)

    def _page(self, task: PageWanted) -> PageMemory | Behind:
        cache = self._held.find(task.sequence)
        num_held = 0 if cache is None else cache.length
        page = None if cache is None or num_held < task.num_tokens else cache.pages[task.number]
        if cache is None or page is None:
            return Behind(task.sequence, num_held)
        layout = cache.pool.maker.host_layout
        memory = cache.pool.maker.host_memory(page)
        return PageMemory(used_part(memory, layout, task.number, task.num_tokens), layout.lanes)

    def _keep(self, task: PageGiven) -> bool:
        pool = self._engine.pool()
        layout = pool.maker.host_layout
        source = layout.with_lanes(task.page.lanes)
        if task.page.memory.nbytes != source.page_bytes:
            raise InvalidOptionError(
                f"a page of {task.page.memory.nbytes} bytes; allowed here: {source.page_bytes}"
            )
        hold = pool.new()
        copy_page(task.page.memory, source, hold.page.memory, layout)
        self._given.setdefault(task.sequence, {})[task.number] = hold
        return True

    def _restore(self, task: Restored) -> int:
        given = self._given.pop(task.sequence, {})
        numbers = range(task.first_page, -(-len(task.tokens) // PAGE_POSITIONS))
        if any(number not in given for number in numbers):
            return 0
        behind: list[Hold | None] = [None] * task.first_page
        cache = self._held.hold(task.sequence, self._engine.new_cache(is_passing=True))
        if task.adapters:
            cache.adapters = adapters_of(self._engine.adapters, task.adapters)
        holds = behind + [given[number] for number in numbers]
        cache.restore(task.tokens.astype(np.int64).tolist(), holds, task.prompt_length)
        return cache.length
