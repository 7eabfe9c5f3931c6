"""Stages that are lost, that forget, or that stay away: what becomes of their texts."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import numpy as np
import pytest
from cluster.lined_process import ProcessStage
from cluster.stage_harness import TOKENS, MortalStage, cut, logits_of, often, spread

from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.cluster.stages.stage import Stage
from edgellama.engine.engine import Engine
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.batches.batch import Batch
from edgellama.generation.batches.batch_width import BatchWidth
from edgellama.generation.text_request import prompt_request
from edgellama.quant.errors import (
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
    ModelFileError,
    StageLostError,
)
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

pytest_plugins = ["cluster.stage_fixtures"]


@pytest.mark.parametrize("seed", range(3))
def test_lost_stages_change_no_bit(file: GGUFFile, exact: Engine, seed: int) -> None:
    """A stage that dies in any moment comes back empty, and an exact text is what it was."""
    sizes = [300, *[1] * 25, 150, *[1] * 15]
    with spread(file, 3, is_dying=often(seed, 0.02)) as spread_engine:
        np.testing.assert_array_equal(logits_of(spread_engine, sizes), logits_of(exact, sizes))
        assert sum(stage.num_deaths for stage in spread_engine.stages) > 2


def test_a_prompt_that_is_computed_again_has_its_bits(
    file: GGUFFile, whole: tuple[Engine, bool]
) -> None:
    """Without the exact kernels, too, since it is cut at the same places."""
    engine, is_exact = whole
    deaths = iter([False] * 7 + [True] + [False] * 1000)
    with spread(file, 2, exact=is_exact, is_dying=lambda: next(deaths)) as spread_engine:
        np.testing.assert_array_equal(
            logits_of(spread_engine, [700, 1]), logits_of(engine, [700, 1])
        )
        assert [stage.num_deaths for stage in spread_engine.stages] != [0, 0]


def test_a_batch_over_dying_stages_loses_nothing(file: GGUFFile, exact: Engine) -> None:
    """Several sequences are in flight, stages die, and every text is that of one process."""
    tokenizer = load_tokenizer(file.metadata, file.path)
    dice = random.Random(3)
    prompts = [dice.choices(range(288), k=dice.randrange(1, 300)) for _ in range(9)]
    options = {"max_tokens": 10, "temperature": 1.0, "seed": 1}

    def texts(each: Engine, width: int) -> dict[int, tuple[int, ...]]:
        requests = [lambda p=p: prompt_request(tokenizer, p, options) for p in prompts]
        batch = Batch(each, tokenizer, requests, width=BatchWidth(width, width), context_length=600)
        return {result.index: result.tokens for result in batch}

    with spread(file, 2, is_dying=often(5, 0.012)) as spread_engine:
        assert texts(spread_engine, 5) == texts(exact, 1)
        assert sum(stage.num_deaths for stage in spread_engine.stages) > 1


def test_a_memory_limit_forgets_the_longest_unused(file: GGUFFile) -> None:
    """Idle sequences make room; what does not fit alone is refused in one line."""
    with Stage(file, range(2), num_threads=1) as stage:
        stage.step(0, 0, [1])
        page_bytes = stage._held.find(0).num_bytes
    with Stage(file, range(2), num_threads=1, memory_limit=2 * page_bytes) as stage:
        for sequence in (1, 2):
            stage.step(sequence, 0, [1, 2])
        stage.step(1, 2, [3])
        stage.step(3, 0, [1])
        assert [stage.num_held(sequence) for sequence in (1, 2, 3)] == [3, 0, 1]
        with pytest.raises(EdgellamaError, match="layers 0 to 1: keys and values would take"):
            stage.step(4, 0, TOKENS[:300])
    with pytest.raises(InvalidOptionError, match="memory_limit is 0"):
        Stage(file, range(2), memory_limit=0)


def test_sequences_over_the_memory_take_turns(file: GGUFFile, whole: tuple[Engine, bool]) -> None:
    """What a stage has forgotten for others is computed again; nobody sees it in a text."""
    engine, is_exact = whole
    with Stage(file, range(2), num_threads=1) as stage:
        stage.step(0, 0, [1])
        page_bytes = stage._held.find(0).num_bytes
    with spread(file, 2, exact=is_exact, memory_limit=page_bytes) as spread_engine:
        caches = [each.new_cache() for each in (engine, engine, spread_engine, spread_engine)]
        for size in (20, 1):
            for number in (0, 1):
                tokens = TOKENS[number : number + size]
                found = [e.forward(tokens, caches[number + 2 * i])
                         for i, e in enumerate((engine, spread_engine))]  # fmt: skip
                np.testing.assert_array_equal(*found)
        with pytest.raises(EdgellamaError, match="allowed here are"):
            spread_engine.forward(TOKENS[:200], spread_engine.new_cache())
        spread_engine.forward(TOKENS[:20], spread_engine.new_cache())


def test_a_stage_that_stays_away_is_an_error(file: GGUFFile) -> None:
    """Patience ends with the name of the stage and its reason; the next text tries again."""
    is_down = [True]
    with spread(file, 2, is_dying=lambda: is_down[0], patience_s=0.1) as engine:
        cache = engine.new_cache()
        with pytest.raises(StageLostError, match=r"layers 0 to 1 .* 0.1 s: the cable was pulled"):
            engine.forward(TOKENS[:5], cache)
        is_down[0] = False
        assert engine.forward(TOKENS[:5], cache).shape == (1, 288)


def test_who_waits_for_a_lost_stage_may_give_up(file: GGUFFile) -> None:
    """A text is cancelled while its stage stays away, and ends long before patience does."""
    cancel, tries = CancelToken(), []

    def away() -> Stage:
        tries.append(1)
        if len(tries) == 3:
            cancel.cancel()
        raise ConnectionError("no route")

    is_down = [False]
    with spread(file, 2, is_dying=lambda: is_down[0], patience_s=600) as engine:
        stage, is_down[0] = engine.stages[0], True
        make, stage._make_stage = stage._make_stage, away  # type: ignore[attr-defined]
        cache = engine.new_cache()
        with pytest.raises(GenerationCancelled):
            engine.forward(TOKENS[:5], cache, cancelled=cancel)
        assert len(tries) == 3
        is_down[0], stage._make_stage = False, make  # type: ignore[attr-defined]
        stage.revive()
        assert engine.forward(TOKENS[:5], cache).shape == (1, 288)


def test_a_stage_that_finds_another_file_is_an_error_at_once(file: GGUFFile) -> None:
    """Waiting would not help; the next text tries again."""
    is_down, is_wrong = [True], [True]
    with spread(file, 2, is_dying=lambda: is_down[0], patience_s=60) as engine:
        stage, cache = engine.stages[0], engine.new_cache()
        assert isinstance(stage, MortalStage)
        make = stage._make_stage

        def made() -> Stage:
            if is_wrong[0]:
                raise ModelFileError("tiny.gguf: another model than the driver's")
            return make()

        stage._make_stage = made
        with pytest.raises(StageLostError, match=r"cannot come back: tiny.gguf: another model"):
            engine.forward(TOKENS[:5], cache)
        is_down[0] = is_wrong[0] = False
        stage.revive()
        assert engine.forward(TOKENS[:5], cache).shape == (1, 288)


def test_closed_sequences_are_forgotten_by_all_stages(file: GGUFFile) -> None:
    """Where there is no room for ended texts the next step tells stages what they need not hold."""
    with spread(file, 2) as engine:
        engine.beginnings.limit_bytes = 0
        cache = engine.new_cache()
        engine.forward(TOKENS[:5], cache)
        number = cache.number
        stages = [stage._stage for stage in engine.stages]
        assert [stage.num_held(number) for stage in stages] == [5, 5]
        cache.close()
        engine.forward([1], engine.new_cache())
        assert [stage.num_held(number) for stage in stages] == [0, 0]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signal stops a process here")
@pytest.mark.parametrize(
    "hows",
    [
        ("SIGSTOP", "SIGUSR1"),
        pytest.param(("SIGUSR1", "SIGKILL"), marks=pytest.mark.slow),
        pytest.param(("SIGKILL", "SIGSTOP"), marks=pytest.mark.slow),
    ],
)
def test_a_process_that_says_nothing_or_hangs_is_replaced(
    file: GGUFFile, exact: Engine, hows: tuple[str, str]
) -> None:
    """A stage that is stopped or killed, or hangs, is replaced, and no bit of the text differs.

    In the middle of a text and of a prompt; the bits are those of one process.
    """
    stages = [ProcessStage(Path(file.path), layers) for layers in cut(4, 2)]
    engine = SpreadEngine(file, stages, chunk_tokens=128)
    try:
        caches = exact.new_cache(), engine.new_cache()
        for number, size in enumerate([5, *[1] * 6, 600, 1, 1]):
            tokens = TOKENS[caches[0].length : caches[0].length + size]
            if number in (3, 7):
                stages[number // 7].processes[0].send_signal(getattr(signal, hows[number // 7]))
            found = [e.forward(tokens, c) for e, c in zip((exact, engine), caches, strict=True)]
            np.testing.assert_array_equal(*found)
            if number == 7:
                for stage in stages:
                    stage.processes[0].send_signal(signal.SIGCONT)
        assert [len(stage.processes) for stage in stages] == [2, 2]
    finally:
        engine.close()
