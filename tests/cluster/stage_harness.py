"""Handles that lose their stage now and then, and engines over a few stages of one file."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from reference.tiny_models import TinyLlama

from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.cluster.stages.local_stage import LocalStage
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage import Stage
from edgellama.cluster.stages.stage_call import Answer, StageCall
from edgellama.cluster.stages.stage_task import StageTask
from edgellama.engine.engine import Engine
from edgellama.quant.array_types import FloatRows
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(layers=4, context_length=1500)
TOKENS = np.random.default_rng(0).integers(0, 288, 700).tolist()


class MortalStage(LocalStage):
    """A stage that dies whenever ``is_dying`` says so, before or after it has computed."""

    def __init__(self, make_stage: Callable[[], Stage], is_dying: Callable[[], bool]) -> None:
        super().__init__(make_stage)
        self._is_dying = is_dying
        self.num_deaths = self.num_next = 0
        self.calls: list[StageCall] = []

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """Answer, or die."""
        self.calls += calls
        if self._is_dying():
            self._die()
        answers = super().run(calls)
        if self._is_dying():
            self._die()
        return answers

    def run_next(self, given: NextToken, meanwhile: Callable[[], None]) -> FloatRows | None:
        """Answer, or die."""
        if self._is_dying():
            self._die()
        if given.rows is not None:
            # As while a stage waits for the next token: what that is nobody knows yet.
            self.rehearse(NextToken(given.sequence, given.position, 0, (), 0 * given.rows))
        else:
            self.rehearse(NextToken(given.sequence, given.position, 0, ()))
        meanwhile()
        answer = super().run_next(given, meanwhile)
        self.num_next += answer is not None
        if self._is_dying():
            self._die()
        return answer

    def do(self, task: StageTask) -> object:
        """Do it, or die."""
        if self._is_dying():
            self._die()
        return super().do(task)

    def _die(self) -> None:
        self.num_deaths += 1
        raise ConnectionError("the cable was pulled")


def cut(num_layers: int, num_stages: int) -> list[range]:
    """So many ranges of about the same length."""
    ends = [num_layers * number // num_stages for number in range(num_stages + 1)]
    return [range(first, last) for first, last in itertools.pairwise(ends)]


@contextlib.contextmanager
def spread(
    file: GGUFFile,
    num_stages: int,
    *,
    exact: bool = True,
    chunk_tokens: int | None = None,
    patience_s: float = 20.0,
    is_dying: Callable[[], bool] = lambda: False,
    **stage_options: Any,
) -> Iterator[SpreadEngine]:
    """An engine over stages in this process; chunks are as long as steps where bits need it."""
    chunk_tokens = chunk_tokens or (128 if exact else 512)
    num_layers = int(file.metadata["llama.block_count"])
    stages = [
        MortalStage(
            lambda layers=layers: Stage(  # type: ignore[misc]
                file, layers, num_threads=1, exact=exact, **stage_options
            ),
            is_dying,
        )
        for layers in cut(num_layers, num_stages)
    ]
    engine = SpreadEngine(file, stages, chunk_tokens=chunk_tokens, patience_s=patience_s)
    try:
        yield engine
    finally:
        engine.close()


def often(seed: int, share: float) -> Callable[[], bool]:
    """Dice that say yes in this share of all cases."""
    dice = random.Random(seed)
    return lambda: dice.random() < share


def logits_of(engine: Engine, sizes: list[int]) -> np.ndarray:
    """The last logits of each of several pieces of a text, of which the rest follows by ones."""
    cache, found = engine.new_cache(), []
    for size in sizes:
        tokens = TOKENS[cache.length : cache.length + size]
        found.append(engine.forward(tokens, cache))
    return np.concatenate(found)
