"""Beginnings of earlier texts, and forks, over stages: what is not computed again, and its bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cluster.stage_harness import TOKENS, MortalStage, often, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.cluster.driver.beginnings import LEAST_SHARED, Beginnings, Held
from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile

pytest_plugins = ["cluster.stage_fixtures"]


def num_computed(engine: SpreadEngine) -> int:
    """Tokens that the first stage was given."""
    stage = engine.stages[0]
    assert isinstance(stage, MortalStage)
    return sum(len(call.tokens) for call in stage.calls)


def after(engine: Engine | SpreadEngine, prompt: list[int]) -> np.ndarray:
    """The logits behind a prompt of a text of its own, of which nothing is known before."""
    cache = engine.new_cache()
    logits = engine.forward(prompt[cache.reuse(prompt) :], cache)
    cache.close()
    return logits


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_what_an_earlier_text_began_with_is_not_computed_again(
    file: GGUFFile, exact: Engine, share: float
) -> None:
    """Its bits are those of one process, whichever stages were lost meanwhile."""
    prompts = [TOKENS[:300], TOKENS[:200] + [7] * 50, [*TOKENS[:300], 9], [5] * 20, TOKENS[:300]]
    with spread(file, 2, is_dying=often(4, share)) as engine:
        for prompt in prompts:
            np.testing.assert_array_equal(after(engine, prompt), after(exact, prompt))
        if not share:
            assert num_computed(engine) == 300 + 50 + 1 + 20 + 1
            assert engine.beginnings.ended_bytes


def test_a_living_text_shares_its_beginning(file: GGUFFile, exact: Engine) -> None:
    """Two texts that share a beginning go on in their own ways."""
    with spread(file, 3) as engine:
        first = engine.new_cache()
        engine.forward(TOKENS[:140], first)
        second = engine.new_cache()
        prompt = [*TOKENS[:130], 3, 4, 5]
        assert second.reuse(prompt) == 130
        engine.forward(prompt[130:], second)
        wanted = exact.new_cache()
        exact.forward(TOKENS[:140], wanted)
        np.testing.assert_array_equal(engine.forward([1], first), exact.forward([1], wanted))
        np.testing.assert_array_equal(engine.forward([1], second), after(exact, [*prompt, 1]))


def test_a_fork_is_not_computed_again(file: GGUFFile, exact: Engine) -> None:
    """Nor is one of a text that is cut back before its next step."""
    with spread(file, 2) as engine:
        cache = engine.new_cache()
        engine.forward(TOKENS[:50], cache)
        fork = cache.fork()
        cache.truncate(20)
        engine.forward([7], cache)
        cache.close()
        logits = engine.forward([9], fork)
        np.testing.assert_array_equal(logits, after(exact, [*TOKENS[:50], 9]))
        assert num_computed(engine) == 52


def test_passing_texts_leave_nothing(file: GGUFFile) -> None:
    """They would take the place of those that come back."""
    with spread(file, 2) as engine:
        cache = engine.new_cache(is_passing=True)
        engine.forward(TOKENS[:50], cache)
        other = engine.new_cache()
        assert other.reuse(TOKENS[:60]) == 0
        cache.close()
        assert other.reuse(TOKENS[:60]) == 0


class _Living:
    """A sequence that lives, without stages."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.held = Held(0, [], b"")


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60)), max_size=30),
    st.integers(0, 200),
    st.integers(0, 150),
)
@settings(max_examples=60, deadline=None)
def test_ended_texts_take_what_living_ones_leave(
    texts: list[tuple[int, int]], limit: int, living: int
) -> None:
    """Whatever comes: every number is either held or retired, and the newest stay."""
    retired: list[int] = []
    beginnings = Beginnings(retired.append, lambda length: length, limit)
    alive = _Living(living)
    beginnings.enter(alive)
    for number, (first, length) in enumerate(texts, 1):
        beginnings.leave(Held(number, [first] * length, b""))
        beginnings.trim()
        assert beginnings.ended_bytes <= max(0, limit - living)
    kept = set(range(1, len(texts) + 1)) - set(retired)
    assert len(retired) == len(set(retired))
    assert sum(texts[number - 1][1] for number in kept) == beginnings.ended_bytes


def found(texts: list[Held], prompt: list[int], origin: bytes = b"") -> tuple[int, int] | None:
    """What is found of a prompt where these texts have ended."""
    beginnings = Beginnings(_nobody, len_of, 1 << 30)
    for held in texts:
        beginnings.leave(held)
    return beginnings.find(prompt, origin)


def _nobody(number: int) -> None:
    """Hears of retired numbers."""


len_of: Callable[[int], int] = int


def test_the_longest_beginning_of_the_same_origin_is_found() -> None:
    """Few tokens are none."""
    texts = [
        Held(1, [1] * 40, b""),
        Held(2, [1] * 30 + [2] * 30, b""),
        Held(3, [1] * 200, b"other adapters"),
        Held(4, [3] * (LEAST_SHARED - 1), b""),
    ]
    assert found(texts, [1] * 60) == (1, 40)
    assert found(texts, [1] * 30 + [2] * 5) == (2, 35)
    assert found(texts, [1] * 60, b"other adapters") == (3, 60)
    assert found(texts, [3] * 60) is None
    assert found(texts, [4] * 60) is None
    assert found([], [4] * 60) is None
