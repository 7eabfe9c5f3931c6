"""Who shares a step, and who runs it: long prompts between others' tokens, cancelling only one."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.program.key_splits import MAX_TOKEN_SPLITS
from edgellama.engine.scheduling import returning, scheduler, step_planner
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.step_planner import SHARED_PROMPT_TOKENS
from edgellama.engine.scheduling.work import Work
from edgellama.engine.steps.segments import Segment, num_token_splits
from edgellama.quant.errors import EdgellamaError, GenerationCancelled, InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(layers=2, context_length=8192, weight_format="Q8_0")


class Recorder:
    """Runs an engine's steps and notes their sizes; ``pause`` is called before each."""

    def __init__(self, engine: Engine) -> None:
        self.steps: list[list[int]] = []
        self.pause: Any = lambda segments: None
        self._run = engine.scheduler._shared.run_step
        engine.scheduler._shared.run_step = self._recorded

    def _recorded(self, segments: Sequence[Segment], cancelled: CancelToken | None) -> Any:
        self.pause(segments)
        self.steps.append([segment.num_tokens for segment in segments])
        return self._run(segments, cancelled)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An exact engine over a tiny model."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", MODEL)
    with GGUFFile(path) as file, Engine(file, num_threads=2, exact=True) as engine:
        yield engine


def prompt(length: int, seed: int = 0) -> list[int]:
    """Reproducible token ids."""
    return np.random.default_rng(seed).integers(0, 288, length).tolist()


def test_alone_a_prompt_takes_whole_steps(engine: Engine) -> None:
    """Nobody else waits: steps are as long as they may be; the next tokens repeat the first's."""
    recorder = Recorder(engine)
    cache = engine.new_cache()
    engine.forward(prompt(1300), cache)
    for token in range(3):
        engine.forward([token], cache)
    assert recorder.steps == [[512], [512], [276], [1]]
    assert cache.length == 1303


def test_parts_of_keys_have_room(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of an exact prompt have no more parts of keys than there is room for."""
    expected, num_splits = engine.forward(prompt(1400), engine.new_cache()), list[int]()
    recorder, most = Recorder(engine), 4 * 128
    monkeypatch.setattr(step_planner, "MAX_TOKEN_SPLITS", most)
    recorder.pause = lambda segments: num_splits.append(sum(map(num_token_splits, segments)))
    np.testing.assert_array_equal(engine.forward(prompt(1400), engine.new_cache()), expected)
    assert max(num_splits) == most
    assert num_token_splits(Segment(engine.new_cache(), 8064, np.arange(128))) <= MAX_TOKEN_SPLITS


def test_a_long_prompt_lets_others_through(engine: Engine) -> None:
    """While a prompt is read, another text gets a token after every piece of at most 128."""
    recorder, started, ended = Recorder(engine), threading.Event(), threading.Event()
    text, reader = engine.new_cache(), engine.new_cache()
    engine.forward(prompt(20), text)
    recorder.steps.clear()

    def wait_for_the_text(segments: Sequence[Segment]) -> None:
        started.set()
        while segments[0].num_tokens > 12 and not ended.is_set():
            if any(work.is_short for work in engine.scheduler._waiting):
                break
            time.sleep(1e-4)

    recorder.pause = wait_for_the_text
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(engine.forward, prompt(4096), reader)
        started.wait()
        while len(recorder.steps) < 40:
            engine.forward([2], text)
        ended.set()
        logits = reading.result()
    np.testing.assert_array_equal(logits, engine.forward(prompt(4096), engine.new_cache()))
    shared = recorder.steps[1:40]
    pieces = [index for index, step in enumerate(shared) if step == [SHARED_PROMPT_TOKENS]]
    tokens = [index for index, step in enumerate(shared) if step == [1]]
    assert len(pieces) + len(tokens) == len(shared)
    assert all(after == before + 2 for before, after in itertools.pairwise(pieces))


def test_a_text_without_a_pause_lets_a_prompt_through(engine: Engine) -> None:
    """Who asks for one token after another leaves a piece of another's prompt between each two."""
    recorder, text, reader = Recorder(engine), engine.new_cache(), engine.new_cache()
    engine.forward(prompt(20), text)
    recorder.steps.clear()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(engine.forward, prompt(2048), reader)
        while not engine.scheduler._waiting and not reading.done():
            time.sleep(1e-4)
        count = 0
        while reader.length < 2048 and not reading.done():
            engine.forward([2], text)
            count += 1
        logits = reading.result()
    assert count <= 2048 // SHARED_PROMPT_TOKENS + 3
    np.testing.assert_array_equal(logits, engine.forward(prompt(2048), engine.new_cache()))


def run_all(engine: Engine, works: Sequence[Work]) -> None:
    """Run works of one caller to their ends."""
    caller = scheduler.Caller()
    while left := [work for work in works if not work.is_over]:
        engine.scheduler.run_any(left, caller)


def test_those_who_wait_share_a_step(engine: Engine) -> None:
    """Works of one call run together, long beside short, in as few steps as possible."""
    recorder = Recorder(engine)
    works = [engine.work([token], engine.new_cache(300)) for token in range(9)]
    works += [engine.work(prompt(length), engine.new_cache(700)) for length in (40, 60, 600, 70)]
    run_all(engine, works)
    assert recorder.steps == [[1] * 9 + [40, 60, 384], [216, 70]]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "f32"])
@pytest.mark.parametrize("window", [None, 150])
def test_prompts_beside_texts_change_no_bit(
    tmp_path: Path, kv_type: Any, window: int | None
) -> None:
    """In a step with prompts, a few tokens of several texts have the bits that they have without.

    So have the prompts, though nothing is asked for exactly; what is wanted is each one's own.
    """
    model = replace(MODEL, width=96, heads=6, kv_heads=2, sliding_window=window)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    with GGUFFile(path) as file, Engine(file, num_threads=2, kv_type=kv_type) as engine:
        texts = [engine.new_cache(800) for _ in range(5)]
        for number, text in enumerate(texts):
            engine.forward(prompt(1 + 140 * number, number), text, logits="none")
        tokens = [prompt(count, count) for count in (1, 1, 3, 1, 12)]
        prompts = [prompt(length, length) for length in (40, 200, 13)]
        kinds = ("last", "all", "rows")

        def run(*, is_mixed: bool) -> list[Any]:
            engine.scheduler.planner._may_mix = is_mixed
            recorder.steps.clear()
            works = [
                engine.work(own, text.fork(), logits="all")
                for own, text in zip(tokens, texts, strict=True)
            ]
            works += [
                engine.work(own, engine.new_cache(300), logits=kind)
                for own, kind in zip(prompts, kinds, strict=True)
            ]
            run_all(engine, works)
            results = [work.result(engine.config.vocab_size) for work in works]
            again = [engine.work([7], work.cache) for work in works]
            run_all(engine, again)
            return results + [work.result(engine.config.vocab_size) for work in again]

        recorder = Recorder(engine)
        apart = run(is_mixed=False)
        assert recorder.steps == [[1, 1, 3, 1, 12], [40, 200, 13], [1] * 8]
        together = run(is_mixed=True)
        assert recorder.steps == [[1, 1, 3, 1, 12, 40, 200, 13], [1] * 8]
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_texts_share_steps_with_pieces_of_a_prompt(engine: Engine) -> None:
    """While a prompt is read, several other texts have a token in each step, beside 128 of it."""
    recorder, texts = Recorder(engine), [engine.new_cache(100) for _ in range(3)]
    reader = engine.work(prompt(400), engine.new_cache(500))
    works = [engine.work([1], text) for text in texts]
    callers = [scheduler.Caller() for _ in range(2)]
    reader.caller = weakref.ref(callers[0])
    engine.scheduler._waiting.append(reader)
    engine.scheduler.run_any(works, caller=callers[1])
    assert recorder.steps == [[1, 1, 1, SHARED_PROMPT_TOKENS]]


def test_threads_share_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of eight threads mostly go through steps together, and are what each is alone."""
    # On a busy machine threads come back late.
    monkeypatch.setattr(returning, "SHORTEST_GATHER_S", 0.2)

    def text(seed: int) -> list[int]:
        cache, tokens = engine.new_cache(200), prompt(10, seed)
        logits = engine.forward(tokens, cache)
        for _ in range(40):
            tokens.append(int(logits[0].argmax()))
            logits = engine.forward(tokens[-1:], cache)
        return tokens

    alone = [text(seed) for seed in range(8)]
    recorder = Recorder(engine)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, range(8))) == alone
    assert len(recorder.steps) < 0.4 * 8 * 41


def test_nobody_waits_for_a_text_at_its_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step waits a moment for a text that had one lately, but not for one that is over."""
    naps = Mock()
    monkeypatch.setattr(returning, "LONGEST_GATHER_S", 60.0)
    monkeypatch.setattr(
        returning, "time", SimpleNamespace(sleep=naps, perf_counter=time.perf_counter)
    )
    first, second = (engine.new_cache(100) for _ in range(2))
    for is_over in (False, True):
        engine.forward([1], second)
        if is_over:
            engine.scheduler.expect_no_more(second)
        naps.reset_mock()
        engine.forward([1], first)
        assert naps.called is not is_over


def test_cancelling_ends_only_the_own_text(engine: Engine) -> None:
    """A text that waits for a step, or drives it, is cancelled; the others get their results."""
    recorder, token = Recorder(engine), CancelToken()
    caches = [engine.new_cache(3000) for _ in range(3)]
    expected = engine.forward(prompt(2000, 1), engine.new_cache(3000))

    def cancel_at_third(segments: Sequence[Segment]) -> None:
        if len(recorder.steps) == 3:
            token.cancel()

    recorder.steps.clear()
    recorder.pause = cancel_at_third
    with ThreadPoolExecutor(3) as pool:
        cancelled = pool.submit(engine.forward, prompt(2000), caches[0], cancelled=token)
        others = [pool.submit(engine.forward, prompt(2000, 1), cache) for cache in caches[1:]]
        with pytest.raises(GenerationCancelled):
            cancelled.result()
        for other in others:
            np.testing.assert_array_equal(other.result(), expected)
    assert caches[0].length < 2000
    again = engine.forward(prompt(2000)[caches[0].length :], caches[0])
    np.testing.assert_array_equal(again, engine.forward(prompt(2000), engine.new_cache(3000)))


def test_a_step_that_finds_its_tokens_computed(engine: Engine) -> None:
    """Where a signal's handler has run the steps that somebody was choosing, none runs twice."""
    cache = engine.new_cache(300)
    work = engine.work(prompt(140), cache)
    expected = engine.forward(prompt(140), engine.new_cache(300))
    first = work.segment(128)
    assert first is not None
    engine.scheduler.run(work)
    engine.scheduler._step([(work, first)], [work])
    assert cache.length == 140
    np.testing.assert_array_equal(work.result(len(expected[0])), expected)


def test_a_sequence_that_is_closed_meanwhile(engine: Engine) -> None:
    """Its work says that it was closed, not that its context is too short."""
    cache = engine.new_cache(300)
    work = engine.work(prompt(5), cache)
    cache.close()
    engine.scheduler.run(work)
    assert "closed" in str(work.error)
    with pytest.raises(EdgellamaError, match="closed"):
        engine.forward([1, 2], cache)


def test_a_consumer_that_stalls_holds_up_nobody(engine: Engine) -> None:
    """A text whose reader does not come back has no part in the steps of the others."""
    stalled, other = engine.new_cache(100), engine.new_cache(100)
    engine.forward(prompt(5), stalled)
    recorder = Recorder(engine)
    for token in range(50):
        engine.forward([token], other)
    assert all(step == [1] for step in recorder.steps)
    assert (stalled.length, other.length) == (5, 50)


def test_no_memory_is_the_own_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence for which there is no page fails alone, with those beside it unharmed."""
    poor, rich = engine.new_cache(300), engine.new_cache(300)
    prepare = type(poor).prepare

    def refuse(cache: Any, num_tokens: int) -> Any:
        if cache is poor:
            raise InvalidOptionError("no memory for 1 GB of keys")
        return prepare(cache, num_tokens)

    monkeypatch.setattr(type(poor), "prepare", refuse)
    works = [engine.work([1], cache) for cache in (poor, rich)]
    while left := [work for work in works if not work.is_over]:
        engine.scheduler.run_any(left)
    with pytest.raises(InvalidOptionError, match="no memory"):
        works[0].result(288)
    assert works[1].result(288).shape == (1, 288)


def test_a_work_that_was_given_up_changes_nothing(engine: Engine) -> None:
    """What a step computes for a work that its caller has left is not counted."""
    cache = engine.new_cache(300)
    work = Work(cache, np.arange(5))
    segment = work.segment(100)
    assert segment is not None
    work.give_up()
    work.deliver(segment, np.zeros((1, 288), np.float32))
    assert cache.length == 0


def test_a_step_holds_the_pages_that_it_was_prepared_with(engine: Engine) -> None:
    """Who gives a running step up may change its sequence at once: the step keeps its pages."""
    cache, recorder = engine.new_cache(), Recorder(engine)
    engine.forward(prompt(300), cache)
    memory = [weakref.ref(page.memory) for page in cache.pages if page is not None]
    work = Work(cache, np.array(prompt(10)))

    def change(segments: Sequence[Segment]) -> None:
        work.give_up()
        cache.truncate(0)
        cache.prepare(500)
        gc.collect()
        held = [octets.ctypes.data for reference in memory if (octets := reference()) is not None]
        assert segments[0].addresses("host").tolist() == held

    recorder.pause = change
    segment = work.segment(100)
    assert segment is not None
    engine.scheduler._step([(work, segment)], [work])
    assert recorder.steps[-1] == [10] and cache.length == 0


def test_a_work_that_was_given_up_has_no_further_step(engine: Engine) -> None:
    """A sequence that its caller has left is not even given room."""
    cache = engine.new_cache()
    work = Work(cache, np.arange(5))
    segment = work.segment(100)
    assert segment is not None and work.prepared(segment) is not None
    work.give_up()
    assert work.prepared(segment) is None


def test_a_work_is_given_up_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves many works a second time waits for none of them."""
    work = Work(engine.new_cache(300), np.arange(5))
    work.give_up()
    claim = Mock()
    monkeypatch.setattr(work, "_claim", claim)
    work.give_up()
    claim.acquire.assert_not_called()


def test_a_closed_engine_tells_all_who_wait(engine: Engine) -> None:
    """Every thread hears of the end; none waits for ever."""
    recorder = Recorder(engine)
    closing = threading.Event()

    def close_at_fifth(segments: Sequence[Segment]) -> None:
        if len(recorder.steps) == 5:
            closing.set()

    recorder.pause = close_at_fifth

    def endless(seed: int) -> None:
        cache = engine.new_cache()
        with pytest.raises(EdgellamaError, match="closed"):
            while True:
                engine.forward(prompt(3, seed), cache)

    with ThreadPoolExecutor(4) as pool:
        texts = [pool.submit(endless, seed) for seed in range(4)]
        closing.wait()
        engine.close()
        for text in texts:
            text.result(timeout=20)
