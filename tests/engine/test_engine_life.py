"""The engine's life: threads, cancelling, closing, being forgotten."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from harness.kernels import TIERS, runner_of, tier_name
from harness.patience import PATIENCE_S, until
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.running.machinery import _end_teams
from edgellama.engine.running.running_job import RunningJob
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS
from edgellama.quant.errors import (
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
)
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(layers=4, context_length=8192, weight_format="Q8_0")
KERNELS = [
    *ENTRY_KERNELS, "embed_Q8_0", "gemv_Q8_0", "gemm_Q8_0", "attention_direct_f16_f16_2",
    "attention_packed_f16_f16", "merge_attention", "rope_store_f16_f16",
    *(f"{kind}_{form}" for kind in ("rms_norm", "swiglu", "quantize")
      for form in ("records", "in_order")),
]  # fmt: skip


@pytest.fixture(scope="module", params=TIERS[:1], ids=tier_name)
def tier(request: pytest.FixtureRequest) -> Tier:
    """Each tier in turn, the model's kernels compiled in one go."""
    runner_of(request.param).preload(KERNELS)
    return request.param


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFFile]:
    """A small model with room for long prompts."""
    path = write_tiny_llama(tmp_path_factory.mktemp("life") / "tiny.gguf", MODEL)
    with GGUFFile(path) as file:
        yield file


@pytest.fixture
def engine(tier: Tier, file: GGUFFile) -> Iterator[Engine]:
    """An engine on two threads."""
    with Engine(file, num_threads=2, tier=tier.name) as engine:
        yield engine


def prompt(length: int, seed: int = 0) -> list[int]:
    """Reproducible token ids."""
    return np.random.default_rng(seed).integers(0, MODEL.vocab_size, length).tolist()


def engine_threads() -> set[threading.Thread]:
    """The engines' workers that are alive now."""
    return {t for t in threading.enumerate() if t.name.removeprefix("edgellama-").isdigit()}


def test_cancel_before_the_start(engine: Engine) -> None:
    """A token that is cancelled already stops the first chunk and leaves the cache as it was."""
    cache, token = engine.new_cache(64), CancelToken()
    engine.forward(prompt(5), cache)
    token.cancel()
    for length in (1, 20):
        with pytest.raises(GenerationCancelled):
            engine.forward(prompt(length), cache, cancelled=token)
    assert cache.length == 5


def test_cancel_between_chunks(engine: Engine) -> None:
    """The chunks that were complete stay in the cache, and going on gives the same logits."""
    cache, token, tokens = engine.new_cache(2048), CancelToken(), prompt(1500)
    with pytest.raises(GenerationCancelled):
        engine.forward(tokens, cache, cancelled=token, progress=lambda done, total: token.cancel())
    assert cache.length == engine.step_tokens
    resumed = engine.forward(tokens[engine.step_tokens :], cache)
    np.testing.assert_array_equal(resumed, engine.forward(tokens, engine.new_cache(2048)))


def test_cancel_from_another_thread(engine: Engine) -> None:
    """A cancel amid a long prompt ends it between chunks, and the engine is as before."""
    cache, token, tokens = engine.new_cache(), CancelToken(), prompt(8192)
    chunk_times: list[float] = []
    is_cancelled = threading.Event()

    def cancel_soon(done: int, total: int) -> None:
        chunk_times.append(time.perf_counter())
        if done == 5 * 512:
            threading.Thread(target=cancel_amid_a_chunk).start()
        if done == total - engine.step_tokens:  # The machine is so busy that it has not come yet.
            assert is_cancelled.wait(PATIENCE_S)

    def cancel_amid_a_chunk() -> None:
        time.sleep((chunk_times[-1] - chunk_times[-2]) / 4)
        token.cancel()
        is_cancelled.set()

    with pytest.raises(GenerationCancelled):
        engine.forward(tokens, cache, cancelled=token, progress=cancel_soon)
    assert 5 * 512 <= cache.length < 8192 and cache.length % engine.step_tokens == 0
    again = engine.forward(prompt(600), engine.new_cache(600))
    np.testing.assert_array_equal(again, engine.forward(prompt(600), engine.new_cache(600)))


@pytest.mark.parametrize("exact", [True, False])
def test_two_threads(tier: Tier, file: GGUFFile, exact: bool) -> None:
    """Threads that share steps get what each gets alone, bit for bit of an exact engine."""
    engine = Engine(file, num_threads=2, tier=tier.name, exact=exact)

    def logits_of(seed: int) -> Any:
        cache, rows = engine.new_cache(700), []
        rows.append(engine.forward(prompt(600, seed), cache)[0])
        rows += [engine.forward([i], cache)[0] for i in range(20)]
        return np.stack(rows)

    expected = [logits_of(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for given, alone in zip(pool.map(logits_of, range(4)), expected, strict=True):
            np.testing.assert_allclose(given, alone, rtol=0, atol=0 if exact else 0.05)
    engine.close()


def test_cancel_while_others_run(engine: Engine) -> None:
    """A caller that still waits for its turn can be cancelled too."""
    cache, token = engine.new_cache(64), CancelToken()
    taken, released = threading.Event(), threading.Event()

    def hold() -> None:
        taken.set()
        released.wait(60)

    with ThreadPoolExecutor(1) as other:
        holding = other.submit(engine.scheduler.exclusively, hold)
        taken.wait()
        threading.Timer(0.05, token.cancel).start()
        with pytest.raises(GenerationCancelled):
            engine.forward(prompt(5), cache, cancelled=token)
        assert not holding.done()
        released.set()
    assert cache.length == 0
    assert engine.forward(prompt(5), cache).shape == (1, MODEL.vocab_size)


def test_closed_inside_a_step(tier: Tier, file: GGUFFile) -> None:
    """A signal's handler that closes the engine inside a step ends the step, not the process."""
    for moment in ("fill", "prepare", "run"):
        engine = Engine(file, num_threads=2, tier=tier.name)
        cache = engine.new_cache(64)
        engine.forward([1], cache)
        machine = engine._machine
        program = next(iter(machine.programs.values()))
        owner = {"fill": machine.runner._rope, "prepare": program, "run": machine.team}[moment]
        interrupted = getattr(owner, moment)

        def close_first(*values: Any, call: Any = interrupted, engine: Any = engine, **named: Any):  # type: ignore[no-untyped-def]
            engine.close()
            return call(*values, **named)

        setattr(owner, moment, close_first)
        with contextlib.suppress(EdgellamaError):
            engine.forward([1], cache)
        with pytest.raises(EdgellamaError, match="closed"):
            engine.forward([1], cache)


def test_two_callers_with_one_cache(engine: Engine) -> None:
    """Two callers can never write beyond a cache's end: the one that comes too late is refused."""
    cache = engine.new_cache(1024)

    def other_caller(done: int, total: int) -> None:
        if done == 512 and cache.length == 512:
            engine.forward(prompt(512), cache)

    with pytest.raises(EdgellamaError, match="changed"):
        engine.forward(prompt(1000), cache, progress=other_caller)
    assert cache.length == 1024


def test_cache_closed_between_chunks(engine: Engine) -> None:
    """When a cache is closed amid a long step, the next chunk is refused, not computed."""
    cache = engine.new_cache(2048)

    def close_cache(done: int, total: int) -> None:
        cache.close()

    with pytest.raises(EdgellamaError):
        engine.forward(prompt(1024), cache, progress=close_cache)
    assert cache.length == 0


def test_cache_closed_within_a_chunk(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a cache does not free its memory while the kernels are writing to it."""
    cache, run, alive = engine.new_cache(64), engine._machine.team.run, []

    def run_after_close(*arguments: Any, **options: Any) -> bool:
        memory = [weakref.ref(page.memory) for page in cache.pages if page is not None]
        cache.close()
        gc.collect()
        alive.append(all(reference() is not None for reference in memory))
        return run(*arguments, **options) if alive[-1] else True

    monkeypatch.setattr(engine._machine.team, "run", run_after_close)
    with contextlib.suppress(EdgellamaError):
        engine.forward(prompt(20), cache, logits="none")
    assert alive == [True]


def test_use_after_close(tier: Tier, file: GGUFFile) -> None:
    """Closing twice is fine, a step afterwards is refused, and so is a closed cache."""
    engine = Engine(file, num_threads=2, tier=tier.name)
    cache, closed = engine.new_cache(8), engine.new_cache(8)
    closed.close()
    with pytest.raises(EdgellamaError):
        engine.forward([1], closed)
    engine.forward([1], cache)
    engine.close()
    engine.close()
    with pytest.raises(EdgellamaError, match="closed"):
        engine.forward([1], cache)
    assert cache.length == 1


def test_close_amid_a_step(tier: Tier, file: GGUFFile) -> None:
    """A close from another thread refuses what follows."""
    engine = Engine(file, num_threads=2, tier=tier.name)
    cache = engine.new_cache(8192)
    closer = threading.Thread(target=engine.close)
    with pytest.raises(EdgellamaError, match="closed"):
        engine.forward(
            prompt(8192), cache, progress=lambda done, total: done == 512 and closer.start()
        )
    closer.join(10)
    assert not closer.is_alive()
    assert 512 <= cache.length < 8192 and cache.length % engine.step_tokens == 0


def test_close_ends_a_long_step(
    tier: Tier, file: GGUFFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close from another thread does not wait for a long step that nobody can cancel."""
    is_begun, is_stopped = threading.Event(), threading.Event()
    run, stop = RunningJob.run, RunningJob.stop

    def run_late(job: RunningJob) -> bool:
        is_begun.set()
        assert is_stopped.wait(PATIENCE_S)
        return run(job)

    def note_stop(job: RunningJob) -> None:
        stop(job)
        is_stopped.set()

    monkeypatch.setattr(RunningJob, "run", run_late)
    monkeypatch.setattr(RunningJob, "stop", note_stop)
    engine = Engine(file, num_threads=2, tier=tier.name)
    cache = engine.new_cache(1024)
    closer = threading.Thread(target=lambda: (is_begun.wait(PATIENCE_S), engine.close()))
    closer.start()
    with pytest.raises(EdgellamaError, match="closed"):
        engine.forward(prompt(512), cache)
    closer.join(PATIENCE_S)
    assert not closer.is_alive() and cache.length == 0


def test_model_file_closed_first(tier: Tier, file: GGUFFile) -> None:
    """The weights stay readable for the engine when the file object is closed before it."""
    with GGUFFile(file.path) as own, Engine(own, num_threads=2, tier=tier.name) as engine:
        expected = engine.forward(prompt(20), engine.new_cache(20))
        own.close()
        gc.collect()
        again = engine.forward(prompt(20), engine.new_cache(20))
    np.testing.assert_array_equal(again, expected)


def test_forgotten_engine(tier: Tier, file: GGUFFile) -> None:
    """An engine that nobody closes ends its threads when it is collected."""
    before = engine_threads()
    engine = Engine(file, num_threads=3, tier=tier.name)
    engine.forward([1, 2], engine.new_cache(4))
    assert len(engine_threads() - before) == 2
    del engine
    gc.collect()
    assert not engine_threads() - before


def test_many_threads_on_few_cores(tier: Tier, file: GGUFFile) -> None:
    """With 8 threads a decode has the same bits on any machine."""
    tokens = prompt(40)
    results = []
    for num_threads in (1, 8):
        with Engine(file, num_threads=num_threads, tier=tier.name) as engine:
            cache = engine.new_cache(64)
            engine.forward(tokens, cache)
            results.append([engine.forward([i], cache) for i in range(20)])
    np.testing.assert_array_equal(*results)


def test_idle_engine_uses_no_processor(engine: Engine) -> None:
    """Between steps an engine that has had time to fall asleep costs nothing."""
    engine.forward(prompt(20), engine.new_cache(20))
    team = engine._machine.team
    until(lambda: sum(team._asleep) == engine.num_threads - 1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("num_threads", [0, -1, 257])
def test_impossible_thread_counts(file: GGUFFile, num_threads: int) -> None:
    """Numbers of threads outside 1 to 256 are refused, with the number and the limits."""
    with pytest.raises(InvalidOptionError, match=f"is {num_threads}; allowed: 1 to 256"):
        Engine(file, num_threads=num_threads)


def test_impossible_threads_variable(file: GGUFFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of threads from the environment that is too large is named in the refusal."""
    monkeypatch.setenv("EDGELLAMA_NUM_THREADS", "1000")
    with pytest.raises(EdgellamaError, match="1000"):
        Engine(file)


def test_teams_that_a_signals_handler_ends() -> None:
    """A handler may end all teams while one of them is being ended."""
    teams: list[Any] = []

    class Team:
        def close(self) -> None:
            """Be interrupted by a handler that closes the model."""
            if not is_handling:
                is_handling.append(True)
                _end_teams(teams)

    is_handling: list[bool] = []
    teams += [Team(), Team()]
    _end_teams(teams)
    assert teams == [] and is_handling
