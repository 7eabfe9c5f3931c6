"""Stages and their driver: the bits of one process, for every model and every wish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster.stage_harness import TOKENS, MortalStage, logits_of, spread
from hypothesis import given
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import __version__
from edgellama.cluster.driver.rounds import Chunking, chunks_between
from edgellama.cluster.stage_actor import StageActor, StageOrder
from edgellama.cluster.stages.stage import Stage
from edgellama.engine.engine import Engine
from edgellama.engine.model_identity import model_identity
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.sessions.session import Session
from edgellama.quant.errors import (
    ContextLengthError,
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
    ModelFileError,
)
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

pytest_plugins = ["cluster.stage_fixtures"]


@pytest.mark.parametrize("num_stages", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[1, 1, 1], [700], [300, 1, 1, 5, 200, 1], [520, 1, 130]])
def test_stages_give_the_bits_of_the_whole(
    file: GGUFFile, whole: tuple[Engine, bool], num_stages: int, sizes: list[int]
) -> None:
    """Prompts in chunks and single tokens after them have the logits of one process.

    Exact ones however they are cut, others where chunks are as long as a step.
    """
    engine, is_exact = whole
    with spread(file, num_stages, exact=is_exact) as spread_engine:
        np.testing.assert_array_equal(logits_of(spread_engine, sizes), logits_of(engine, sizes))


@pytest.mark.parametrize("wanted", ["all", "last", "none", 3, 200, "each"])
def test_every_wish_for_logits_is_met(
    file: GGUFFile, whole: tuple[Engine, bool], wanted: object
) -> None:
    """Logits of all tokens, of some at the end or of none come as from one process."""
    engine, is_exact = whole
    tokens = TOKENS[: 6 if wanted == "each" else 400]
    with spread(file, 2, exact=is_exact) as spread_engine:
        found = [
            each.forward(tokens, each.new_cache(), logits=wanted)
            for each in (engine, spread_engine)
        ]
    assert found[0].shape == found[1].shape
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 150},
        {"rope_original_context": 128, "rope_dynamic_factor": 4.0},
        {"tied": True, "biases": True, "weight_format": "Q8_0", "rope_freqs": True},
    ],
    ids=["window", "dynamic", "tied"],
)
def test_all_kinds_of_models_can_be_spread(tmp_path: Path, options: dict[str, Any]) -> None:
    """Windows, positions that turn by a prompt's length, quantized and tied matrices."""
    model = TinyLlama(layers=3, context_length=1500, **options)
    with GGUFFile(write_tiny_llama(tmp_path / "tiny.gguf", model)) as file:
        deaths = iter([False] * 45 + [True] + [False] * 1000)
        with (
            Engine(file, num_threads=1, exact=True) as engine,
            spread(file, 2, is_dying=lambda: next(deaths)) as spread_engine,
        ):
            sizes = [500, 1, 1, 130, *[1] * 9]
            np.testing.assert_array_equal(logits_of(spread_engine, sizes), logits_of(engine, sizes))
            assert next(deaths) is False


def test_texts_are_those_of_one_process(file: GGUFFile, whole: tuple[Engine, bool]) -> None:
    """Sampling, stop strings, log-probabilities, sessions and forks run over stages unchanged."""
    engine, is_exact = whole
    tokenizer = load_tokenizer(file.metadata, file.path)
    options = {"max_tokens": 20, "temperature": 0.8, "seed": 7, "stop": ["q"], "logprobs": 2}
    found = []
    with spread(file, 2, exact=is_exact) as spread_engine:
        for each in (engine, spread_engine):
            session = Session(each, tokenizer, context_length=600)
            first = session.generate(TOKENS[:300], **options)
            fork = session.fork()
            second = session.generate([*TOKENS[:250], 5, 6], **options)
            third = fork.generate([*session.tokens, 9], **options)
            found.append([(r.text, r.tokens, r.finish_reason, r.logprobs)
                          for r in (first, second, third)])  # fmt: skip
            session.close()
            fork.close()
    if is_exact:
        assert found[0] == found[1]
    assert found[0][:2] == found[1][:2]


def test_chunks_go_on_while_others_are_computed(file: GGUFFile) -> None:
    """The first stage has the second chunk before the last stage has the first one's answer."""
    with spread(file, 2) as engine:
        first, last = engine.stages
        assert isinstance(first, MortalStage)
        engine.forward(TOKENS, engine.new_cache())
        assert [call.position for call in first.calls] == [0, 128, 256, 384, 512, 640]
        assert [len(call.rows) for call in last.calls] == [128] * 5 + [60]


def test_steps_are_idempotent_by_position(file: GGUFFile) -> None:
    """A repeated call computes the same again, an earlier one forgets, a later one is refused."""
    with Stage(file, range(4), num_threads=1, exact=True) as stage:
        once = stage.step(1, 0, TOKENS[:40])
        np.testing.assert_array_equal(stage.step(1, 0, TOKENS[:40]), once)
        stage.step(1, 40, [1, 2, 3])
        again = stage.step(1, 40, [4])
        np.testing.assert_array_equal(stage.step(1, 40, [4]), again)
        assert stage.num_held(1) == 41
        with pytest.raises(EdgellamaError, match="position 50 of sequence 1: only 41 tokens"):
            stage.step(1, 50, [4])
        stage.forget(1)
        stage.forget(1)
        with pytest.raises(EdgellamaError, match="only 0 tokens"):
            stage.step(1, 41, [4])


def test_a_cancelled_prompt_can_be_asked_for_again(
    file: GGUFFile, whole: tuple[Engine, bool]
) -> None:
    """It ends within a chunk, and leaves nothing that changes the next one."""
    engine, is_exact = whole
    cancel, calls = CancelToken(), []

    def count() -> bool:
        calls.append(1)
        if len(calls) == 6:
            cancel.cancel()
        return False

    with spread(file, 2, exact=is_exact, is_dying=count) as spread_engine:
        cache = spread_engine.new_cache()
        with pytest.raises(GenerationCancelled):
            spread_engine.forward(TOKENS, cache, cancelled=cancel)
        assert cache.length == 0
        found = spread_engine.forward(TOKENS, cache)
        np.testing.assert_array_equal(found, engine.forward(TOKENS, engine.new_cache()))


def test_what_is_wrong_is_said(file: GGUFFile) -> None:
    """Gaps between stages, another file and too long prompts each have an error of their own."""
    with Stage(file, range(2)) as first, pytest.raises(ContextLengthError):
        first.step(0, 0, [1] * 1501)
    with pytest.raises(ModelFileError, match="another model than the driver's"):
        Stage(file, range(2), identity="0" * 32)
    Stage(file, range(2), identity=model_identity(file)).close()
    with (
        pytest.raises(InvalidOptionError, match="begins with layer 2; needed here: 0"),
        spread(file, 2) as engine,
    ):
        type(engine)(file, engine.stages[1:])
    with spread(file, 2) as engine:
        with pytest.raises(InvalidOptionError, match="ends before layer 2; the model has 4"):
            type(engine)(file, engine.stages[:1])
        with pytest.raises(InvalidOptionError, match="token ids"):
            engine.forward([288], engine.new_cache())


@given(st.integers(0, 3000), st.integers(1, 3000), st.integers(1, 512))
def test_chunks_are_all_tokens_in_order(start: int, count: int, chunk_tokens: int) -> None:
    """No token is left out or computed twice, and one process's cuts are among the chunks'."""
    stop = start + count
    chunks = list(chunks_between(start, stop, Chunking(chunk_tokens, 512)))
    assert [first for first, _ in chunks] == [start, *(last for _, last in chunks[:-1])]
    assert chunks[-1][1] == stop
    whole = list(chunks_between(start, stop, Chunking(512, 512)))
    assert {last for _, last in whole} <= {last for _, last in chunks}
    assert all(last - first <= max(chunk_tokens, 128) + 12 for first, last in chunks)


@pytest.mark.parametrize("wanted", ["each", "next"])
def test_drafts_are_checked_by_the_bits_of_single_tokens(smollm2_path: Path, wanted: Any) -> None:
    """A few tokens together have the logits that each has alone, without the exact kernels too."""
    few = [5, 77, 900, 1200, 44, 3001, 17]
    with GGUFFile(smollm2_path) as file, spread(file, 2, exact=False) as engine:
        cache = engine.new_cache(256)
        engine.forward(list(range(40)), cache)
        alone = np.concatenate([engine.forward([token], cache) for token in few])
        cache.truncate(40)
        together = engine.forward(few, cache, logits=wanted)
        np.testing.assert_array_equal(together, alone[-len(together) :])


def test_the_starter_model_over_three_stages(smollm2_path: Path) -> None:
    """The real model's text, with its stages dying, is that of one process."""
    with GGUFFile(smollm2_path) as file:
        tokenizer = load_tokenizer(file.metadata, file.path)
        found = []
        deaths = iter([False] * 20 + [True] + [False] * 1000)
        with (
            Engine(file, num_threads=2, exact=True) as engine,
            spread(file, 3, is_dying=lambda: next(deaths)) as spread_engine,
        ):
            for each in (engine, spread_engine):
                session = Session(each, tokenizer, context_length=512)
                result = session.generate("The capital of France is", max_tokens=16, seed=1)
                found.append(result.text)
                session.close()
            assert sum(stage.num_deaths for stage in spread_engine.stages) > 0
        assert found[0] == found[1]
        assert len(found[0]) > 20


def test_another_version_on_a_machine_is_named(file: GGUFFile) -> None:
    """Before its file is opened: what both would say to each other may differ."""
    order = StageOrder(str(file.path), range(2), "0" * 32, version="0.0.9")
    error = StageActor(order).open()
    assert "edgellama 0.1.0 is installed there; the driver has 0.0.9" in str(error)
    actor = StageActor(replace(order, version=__version__))
    assert "another model than the driver's" in str(actor.open())
    assert actor.pulse() is None
