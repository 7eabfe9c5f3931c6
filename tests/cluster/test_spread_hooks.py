"""Hooks over stages: functions of the driver's process see and change what stages compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster.lined_process import ProcessStage
from cluster.stage_harness import TOKENS, cut, often, spread

from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.cluster.ray_stages import RayStage
from edgellama.engine.engine import Engine
from edgellama.engine.program.hooks import HookPlace, RowHook, StepRows
from edgellama.generation.sessions.session import Session
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

pytest_plugins = ["cluster.stage_fixtures"]


def steer(rows: np.ndarray, step: StepRows) -> None:
    """Another residual stream, by the position."""
    rows[:, 3] += 0.5 + step.positions % 3
    rows *= 1.25


def logits_of(engine: Any, sizes: tuple[int, ...] = (300, 1, 5, 1)) -> np.ndarray:
    """The last logits of pieces of one text."""
    cache, found = engine.new_cache(), []
    for size in sizes:
        found.append(engine.forward(TOKENS[cache.length : cache.length + size], cache))
    return np.concatenate(found)


@contextlib.contextmanager
def hooked(engine: Any, *hooks: RowHook) -> Iterator[None]:
    """Hooks for a while."""
    engine.hooks = hooks
    try:
        yield
    finally:
        engine.hooks = ()


@contextlib.contextmanager
def in_processes(file: GGUFFile) -> Iterator[SpreadEngine]:
    """An engine over two stages in processes of their own."""
    stages = [ProcessStage(Path(file.path), layers) for layers in cut(4, 2)]
    engine = SpreadEngine(file, stages, chunk_tokens=128)
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.parametrize("place", ["residual", "attention", "logits"])
def test_a_hook_sees_what_it_sees_in_one_process(
    file: GGUFFile, exact: Engine, place: HookPlace
) -> None:
    """The same rows of the same tokens, in their order; one that only looks changes no bit."""
    layers = None if place == "logits" else (0, 3)
    seen: dict[int, list[tuple[bytes, list[int], list[int]]]] = {}

    def hook_of(number: int) -> RowHook:
        def note(rows: np.ndarray, step: StepRows) -> None:
            for row, token, position in zip(rows, step.tokens, step.positions, strict=True):
                seen.setdefault(number, []).append((row.tobytes(), int(token), int(position)))

        return RowHook(note, place, layers)

    with spread(file, 2) as engine, hooked(engine, hook_of(0)), hooked(exact, hook_of(1)):
        np.testing.assert_array_equal(logits_of(engine), logits_of(exact))
    assert len(seen[0]) >= 4
    # A long prompt goes through all stages chunk by chunk.
    assert sorted(seen[0]) == sorted(seen[1])


def test_what_a_hook_changes_goes_on_over_processes(file: GGUFFile, exact: Engine) -> None:
    """As in one process, in prompts and tokens; without it all is as before."""
    hooks = RowHook(steer, layers=(1, 2)), RowHook(steer, "logits")
    plain = logits_of(exact)
    with hooked(exact, *hooks):
        expected = logits_of(exact)
    assert (expected != plain).any()
    with in_processes(file) as engine:
        with hooked(engine, *hooks):
            np.testing.assert_array_equal(logits_of(engine), expected)
            engine.stages[1].processes[0].kill()  # type: ignore[attr-defined]
            np.testing.assert_array_equal(logits_of(engine), expected)
        np.testing.assert_array_equal(logits_of(engine), plain)


def test_an_error_in_a_hook_reaches_the_caller(file: GGUFFile) -> None:
    """It is no lost stage, and ends that step alone."""

    def fail(rows: np.ndarray, step: StepRows) -> None:
        raise ZeroDivisionError("in the hook")

    with in_processes(file) as engine, spread(file, 2) as local:
        for each in (engine, local):
            cache = each.new_cache()
            before = each.forward(TOKENS[:9], cache)
            with (
                hooked(each, RowHook(fail, layers=(2,))),
                pytest.raises(ZeroDivisionError, match="in the hook"),
            ):
                each.forward([1], cache)
            cache.truncate(8)
            np.testing.assert_array_equal(each.forward([TOKENS[8]], cache), before)
        assert [len(stage.processes) for stage in engine.stages] == [1, 2]  # type: ignore[attr-defined]


def test_lost_stages_ask_again(file: GGUFFile, exact: Engine) -> None:
    """A stage that comes back has the hooks, and an exact text is what it was."""
    sizes = (300, *[1] * 20, 150, *[1] * 10)
    with hooked(exact, RowHook(steer)):
        expected = logits_of(exact, sizes)
    with spread(file, 3, is_dying=often(1, 0.02)) as engine, hooked(engine, RowHook(steer)):
        np.testing.assert_array_equal(logits_of(engine, sizes), expected)
        assert sum(stage.num_deaths for stage in engine.stages) > 1  # type: ignore[attr-defined]


def test_sessions_from_before_a_hook_begin_anew(file: GGUFFile, exact: Engine) -> None:
    """Nothing that was computed otherwise is gone on from, of the text itself or of others."""
    tokenizer = load_tokenizer(file.metadata, file.path)

    def texts(engine: Any) -> list[tuple[int, ...]]:
        session = Session(engine, tokenizer, context_length=600)
        found = [session.generate(TOKENS[:40], max_tokens=20, temperature=0).tokens]
        with hooked(engine, RowHook(steer)):
            found.append(session.generate(TOKENS[:40], max_tokens=20, temperature=0).tokens)
            other = Session(engine, tokenizer, context_length=600)
            found.append(other.generate(TOKENS[:40], max_tokens=20, temperature=0).tokens)
            other.close()
        found.append(session.generate(TOKENS[:40], max_tokens=20, temperature=0).tokens)
        session.close()
        return found

    expected = texts(exact)
    assert expected[0] == expected[3] != expected[1] == expected[2]
    with spread(file, 2) as engine:
        assert texts(engine) == expected


def test_a_hook_cannot_compute_in_its_own_step(file: GGUFFile) -> None:
    """It is told so, also within a long prompt, in place of waiting for itself."""
    with spread(file, 2) as engine:

        def compute(rows: np.ndarray, step: StepRows) -> None:
            engine.forward([1], engine.new_cache())

        with hooked(engine, RowHook(compute)):
            for size in (1, 600):
                with pytest.raises(EdgellamaError, match="in the middle of its own step"):
                    engine.forward(TOKENS[:size], engine.new_cache())


def test_what_cannot_be_a_hook_here_is_refused(file: GGUFFile) -> None:
    """Instruments that add ops of their own; stages without a connection to ask back."""

    class Instrument:
        changes_rows = False

    with spread(file, 2) as engine:
        with pytest.raises(InvalidOptionError, match="a hook of type Instrument"):
            engine.hooks = [Instrument()]  # type: ignore[list-item]
        assert engine.hooks == ()
    stage = object.__new__(RayStage)
    stage._has_line, stage.layers = False, range(2)
    stage._order = type("Order", (), {"place": "desk"})()
    with pytest.raises(InvalidOptionError, match="on desk has no connection of its own for it"):
        stage.call_hooks(lambda call: call.rows)
