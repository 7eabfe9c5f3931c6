"""Saves and loads sessions over stages, in one process's files: each stage has a part of a page.

Pages are sent one at a time, so that texts go on between them. What a lost stage cannot give is
computed again before it is saved. What it cannot take is computed again when the text continues.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgellama.cluster.driver.pipeline import Pipeline
from edgellama.cluster.driver.rounds import Part
from edgellama.cluster.stages.adapter_uses import uses_of
from edgellama.cluster.stages.stage_call import Behind
from edgellama.cluster.stages.stage_task import (
    DescriptionWanted,
    PageGiven,
    PageMemory,
    PageWanted,
    Restored,
    StageDescription,
    StageTask,
)
from edgellama.engine.pages.page_lanes import copy_page
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.saved.cache_maker import CacheMaker
from edgellama.engine.saved.saved_pages import Room, SavedPages, SavedText, open_saved, write_saved
from edgellama.engine.scheduling.scheduler import Scheduler
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, first_seen
from edgellama.quant.errors import EdgellamaError, StageLostError
from edgellama.quant.progress import Progress

if TYPE_CHECKING:
    from edgellama.cluster.driver.spread_sequence import SpreadSequence

logger = logging.getLogger(__name__)
MOST_TRIES = 5
"""Times that what a stage has lost is computed again for one page."""


class SavedStages:
    """Files of the sequences of one model, whose pages lie as ``layout`` says on the driver."""

    def __init__(
        self, pipeline: Pipeline, scheduler: Scheduler, layout: PageLayout, maker: CacheMaker
    ) -> None:
        """``maker``: describes who computes, without the arithmetic, which is the stages' own."""
        self._pipeline, self._scheduler = pipeline, scheduler
        self._layout, self._maker = layout, maker

    def save(
        self, path: Path, sequence: SpreadSequence, origin: bytes, progress: Progress | None
    ) -> None:
        """See ``save_cache``."""
        first_page = first_seen(sequence.length, sequence.window) // PAGE_POSITIONS
        text = SavedText(
            list(sequence.tokens), sequence.prompt_length, origin, self._layout, first_page
        )
        write_saved(path, text, self._described(), self._pages(sequence, first_page), progress)

    def load(self, path: Path, sequence: SpreadSequence, origin: bytes, *, verify: bool) -> None:
        """See ``load_cache``."""
        room = Room(self._layout, origin, sequence.window, sequence.context_length)
        saved = open_saved(path, room, self._described(), verify=verify)
        sequence.renew()
        try:
            for number in range(len(self._pipeline.stages)):
                self._give(saved, sequence, number)
        except StageLostError:
            sequence.renew()
            raise
        sequence.restore(saved.tokens, saved.prompt_length)

    def _described(self) -> CacheMaker:
        """The maker with what the stages say; exact where all are."""
        found = [self._do(n, DescriptionWanted()) for n in range(len(self._pipeline.stages))]
        stages = [each for each in found if isinstance(each, StageDescription)]
        arithmetics = sorted({stage.arithmetic for stage in stages})
        is_exact = all(stage.is_exact for stage in stages)
        return replace(self._maker, arithmetic=", ".join(arithmetics), is_exact=is_exact)

    def _pages(self, sequence: SpreadSequence, first_page: int) -> Iterator[np.ndarray]:
        """All pages in order, as they lie in one process."""
        for page in range(first_page, -(-sequence.length // PAGE_POSITIONS)):
            whole = np.zeros(self._layout.page_bytes, np.uint8)
            for number in range(len(self._pipeline.stages)):
                layout, part = self._part_of(whole, number, self._layout)
                given = self._page(sequence, number, page)
                copy_page(given.memory, layout.with_lanes(given.lanes), part, layout)
            yield whole

    def _page(self, sequence: SpreadSequence, number: int, page: int) -> PageMemory:
        for _ in range(MOST_TRIES):
            wanted = PageWanted(sequence.number, sequence.length, page)
            found = self._do(number, wanted)
            if isinstance(found, PageMemory):
                return found
            if not isinstance(found, Behind):
                raise found if isinstance(found, EdgellamaError) else TypeError(repr(found))
            self._compute_again(sequence)
        name = self._pipeline.stages[number].name
        raise StageLostError(f"stage {name} has lost a session again and again while it was saved")

    def _compute_again(self, sequence: SpreadSequence) -> None:
        """Have all stages hold a sequence."""
        *history, last = sequence.tokens
        part = Part(
            sequence.number, history, len(history), np.array([last], np.int32), "none",
            sequence.prompt_length, adapters=uses_of(sequence.adapters),
        )  # fmt: skip
        self._scheduler.exclusively(lambda: self._pipeline.run([part]))

    def _give(self, saved: SavedPages, sequence: SpreadSequence, number: int) -> None:
        """Let a stage have its part of all pages."""
        for page in range(saved.num_pages):
            _, part = self._part_of(saved.page(page), number, saved.layout)
            memory = PageMemory(part, saved.layout.lanes)
            self._do(number, PageGiven(sequence.number, saved.first_page + page, memory))
        found = self._do(
            number,
            Restored(
                sequence.number,
                np.array(saved.tokens, np.int32),
                saved.first_page,
                saved.prompt_length,
                uses_of(sequence.adapters),
            ),
        )
        if found != len(saved.tokens):
            name = self._pipeline.stages[number].name
            logger.warning("stage %s has not taken a saved session (%s); it computes it again",
                           name, found)  # fmt: skip

    def _part_of(
        self, page: np.ndarray, number: int, layout: PageLayout
    ) -> tuple[PageLayout, np.ndarray]:
        """A stage's layers in a page of all layers: how they lie, and where."""
        layers = self._pipeline.stages[number].layers
        part = page[layers.start * layout.layer_bytes : layers.stop * layout.layer_bytes]
        return replace(layout, num_layers=len(layers)), part

    def _do(self, number: int, task: StageTask) -> object:
        return self._scheduler.exclusively(lambda: self._pipeline.do(number, task))
