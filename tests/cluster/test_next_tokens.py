"""Tokens that go through stages as numbers alone, since they go on as the ones before them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster.stage_harness import MODEL, MortalStage, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.tiny_models import write_tiny_llama

from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage import Stage
from edgellama.cluster.stages.stage_call import StageCall
from edgellama.engine.engine import Engine
from edgellama.engine.program.hooks import RowHook
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import ContextLengthError, EdgellamaError, GenerationCancelled
from edgellama.quant.gguf.file import GGUFFile
from edgellama.sampling.choice_order import ChoiceOrder, SamplerPlan
from edgellama.sampling.options import SamplingOptions

pytest_plugins = ["cluster.stage_fixtures"]
CHANGES = st.tuples(
    st.sampled_from(["next", "truncate", "prompt", "fork", "other", "reuse", "number"]),
    st.integers(1, 140),
)


def prompt_of(num_tokens: int) -> list[int]:
    """Token ids of a prompt; longer ones begin with shorter ones."""
    return [7 * number % 288 for number in range(num_tokens)]


def num_next(engine: SpreadEngine) -> list[int]:
    """How many tokens each stage had so."""
    return [stage.num_next for stage in engine.stages if isinstance(stage, MortalStage)]


def logits_of(engine: Any, changes: list[tuple[str, int]], num_tokens: int) -> list[FloatRows]:
    """The logits after each of some changes of a sequence of so many tokens."""
    cache, other, forks = engine.new_cache(1400), engine.new_cache(64), list[Any]()
    found = [engine.forward(prompt_of(num_tokens), cache)]
    for what, number in changes:
        if what == "truncate":
            cache.truncate(max(1, cache.length - number))
        elif what == "prompt":
            found.append(engine.forward(prompt_of(number), cache))
        elif what == "fork":
            forks.append(cache.fork())
            found += [engine.forward([token], forks[-1]) for token in (5, 6, 7)]
        elif what == "other":
            found += [engine.forward([token], other) for token in (3, 4)]
        elif what == "reuse":
            prompt = prompt_of(number)
            found.append(engine.forward(prompt[cache.reuse(prompt) :], cache))
        elif what == "number" and isinstance(engine, SpreadEngine):
            cache.renew()
        found += [engine.forward([token], cache) for token in range(number % 7)]
    return found


@settings(max_examples=15, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=6), st.integers(1, 200))
def test_whatever_happened_before_the_bits_are_those_of_one_process(
    file: GGUFFile, exact: Engine, changes: list[tuple[str, int]], num_tokens: int
) -> None:
    """Truncating, forking, other sequences and lost ones never make a next token wrong."""
    with spread(file, 2) as engine:
        found = logits_of(engine, changes, num_tokens)
    for one, other in zip(found, logits_of(exact, changes, num_tokens), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_text_goes_on_so_within_a_page(file: GGUFFile) -> None:
    """Of the tokens that follow a prompt, those at a page's start and the first are ordinary."""
    with spread(file, 3) as engine:
        cache = engine.new_cache()
        engine.forward(prompt_of(100), cache)
        for token in range(60):
            engine.forward([token], cache)
        assert num_next(engine) == [58, 58, 58]


def test_a_window_is_moved_by_calls_that_say_all(tmp_path: Path) -> None:
    """Stages are not asked in vain for what they cannot go on with."""
    path = write_tiny_llama(tmp_path / "window.gguf", replace(MODEL, sliding_window=20))
    with GGUFFile(path) as file, spread(file, 2) as engine:
        cache, first = engine.new_cache(), engine.stages[0]
        assert isinstance(first, MortalStage)
        for tokens in ([1, 2, 3], *[[4]] * 5):
            engine.forward(tokens, cache)
        assert num_next(engine) == [0, 0] and len(first.calls) == 6


def test_hooks_see_every_token(file: GGUFFile, exact: Engine) -> None:
    """While there are any, no token goes on so, and afterwards they do again."""
    seen: list[int] = []
    hook = RowHook(lambda rows, step: seen.extend(step.tokens), "residual", [3])
    with spread(file, 2) as engine:
        cache, expected = engine.new_cache(), exact.new_cache()
        for tokens in ([1, 2], [3], [4]):
            engine.forward(tokens, cache)
        engine.hooks = [hook]
        for token in (5, 6):
            engine.forward([token], cache)
        engine.hooks = []
        assert (seen, num_next(engine)) == ([5, 6], [1, 1])
        exact.forward(range(1, 7), expected)
        for token in (7, 8, 9):
            found = [e.forward([token], c) for e, c in ((engine, cache), (exact, expected))]
            np.testing.assert_array_equal(*found)
        assert num_next(engine) == [3, 3]


def test_what_cannot_go_on_is_said_as_ever(file: GGUFFile) -> None:
    """A full context, a cancellation, a token that is none, and a closed model."""
    with spread(file, 2) as engine:
        cache = engine.new_cache(8)
        for tokens in ([1, 2, 3], [4], [5]):
            engine.forward(tokens, cache)
        cancel = CancelToken()
        cancel.cancel()
        with pytest.raises(GenerationCancelled):
            engine.forward([6], cache, cancelled=cancel)
        with pytest.raises(EdgellamaError, match="288"):
            engine.forward([288], cache)
        assert cache.length == 5
        for token in range(3):
            engine.forward([token], cache)
        with pytest.raises(ContextLengthError):
            engine.forward([6], cache)
        cache.truncate(6)
        engine.close()
        with pytest.raises(EdgellamaError, match="closed"):
            engine.forward([6], cache)


def test_ctrl_c_leaves_the_sequence_as_it_was(
    file: GGUFFile, exact: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted token is not there, and what the stages may have of it is not used."""
    with spread(file, 2) as engine:
        cache, expected = engine.new_cache(), exact.new_cache()
        for tokens in ([1, 2, 3], [4], [5]):
            engine.forward(tokens, cache)
            exact.forward(tokens, expected)
        last = engine.stages[-1]

        def interrupt(given: NextToken, meanwhile: object) -> FloatRows | None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(last, "run_next", interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.forward([6], cache)
        assert cache.length == 5
        for token in (7, 8, 9):
            found = [e.forward([token], c) for e, c in ((engine, cache), (exact, expected))]
            np.testing.assert_array_equal(*found)


def test_a_stage_refuses_what_is_not_like_its_last_call(file: GGUFFile) -> None:
    """Another sequence, position, width or way to choose; and what it has forgotten."""
    plan = SamplerPlan(1, SamplingOptions(temperature=0), frozenset(), frozenset(), {}, 3, ())
    order = ChoiceOrder(plan, ((),), frozenset())
    with Stage(file, range(2, 4), num_threads=1) as stage:
        width = stage._engine.config.embedding_length
        row = np.ones((1, width), np.float32)

        def is_refused(sequence: int, position: int, chances: Any, rows: Any = row) -> bool:
            return stage.run_next(NextToken(sequence, position, 1, chances, rows)) is None

        assert is_refused(1, 0, ())
        for position in range(2):
            stage.run(
                [StageCall(1, position, np.array([1], np.int32), "last", row, 1, order=order)]
            )
        assert is_refused(2, 2, ()) and is_refused(1, 1, ()) and is_refused(1, 3, ())
        assert is_refused(1, 2, (), row[:, :1]) and is_refused(1, 2, (), None)
        assert not is_refused(1, 2, ())
        assert is_refused(1, 3, None)
        stage.forget(1)
        assert is_refused(1, 3, ())
