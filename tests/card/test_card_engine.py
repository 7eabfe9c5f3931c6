"""Sequences on a graphics card: the same texts as on the CPU, whatever happens to the card.

The driver is a test double, and its kernels are naive ones: what is tested is the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import naive_card
from doubles.fake_cuda import FakeCard, FakeCuda
from doubles.fake_modules import Launch
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cuda.driver import OUT_OF_MEMORY, Driver
from edgellama.engine.card import calibration, late_placement, placement
from edgellama.engine.card import device as card_device
from edgellama.engine.card.choice import AttentionChoice
from edgellama.engine.card.pages import CardPages
from edgellama.engine.engine import Engine
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.saved.saved_cache import load_cache, save_cache
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.errors import CudaError, CudaLostError, GenerationCancelled
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(heads=6, kv_heads=2, head_size=8, width=32, layers=3, context_length=2048)
CUDA = AttentionChoice("cuda")
TOKENS: list[int] = np.random.default_rng(0).integers(0, 40, 300).tolist()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """The machine's driver, which forgives nothing."""
    fake = FakeCuda(run=naive_card.run)
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(fake)))
    monkeypatch.setattr(card_device, "ptx_of", naive_card.stub_ptx)
    yield fake
    assert fake.violations == []


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return write_tiny_llama(tmp_path_factory.mktemp("card") / "tiny.gguf", MODEL)


def engine_on(path: Path, choice: AttentionChoice = CUDA, kv_type: str = "f16") -> Engine:
    """An engine whose sequences lie where ``choice`` says."""
    return Engine(GGUFFile(path), num_threads=2, attention=choice, kv_type=kv_type)


def expected(path: Path, parts: list[list[int]], kv_type: str = "f16") -> list[np.ndarray]:
    """The logits of the CPU after each part."""
    with Engine(GGUFFile(path), num_threads=2, kv_type=kv_type) as engine:
        cache = engine.new_cache()
        return [engine.forward(part, cache) for part in parts]


def is_on_card(cache: KVCache) -> bool:
    """Whether a sequence's keys and values lie on the card."""
    return isinstance(cache.pool.maker, CardPages)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "f32", "bf16/q4_0", "q4_0/bf16"])
def test_same_logits(fake: FakeCuda, path: Path, kv_type: str) -> None:
    """Prompts, a few tokens and single ones have the CPU's logits."""
    parts = [TOKENS[:200], TOKENS[200:203], *([t] for t in TOKENS[203:210])]
    with engine_on(path, kv_type=kv_type) as engine:
        cache = engine.new_cache()
        for part, logits in zip(parts, expected(path, parts, kv_type), strict=True):
            np.testing.assert_allclose(engine.forward(part, cache), logits, rtol=0, atol=0.02)
        assert is_on_card(cache)
    assert not fake.leaks


def test_layers_without_positions(fake: FakeCuda, tmp_path: Path) -> None:
    """SmolLM3's fourth layers are rotated on the card as little as on the CPU."""
    model = replace(MODEL, architecture="smollm3", layers=5)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    with_positions = write_tiny_llama(tmp_path / "llama.gguf", replace(model, architecture="llama"))
    parts = [TOKENS[:140], TOKENS[140:143], TOKENS[143:144]]
    wanted, others = expected(path, parts), expected(with_positions, parts)
    with engine_on(path) as engine:
        cache = engine.new_cache()
        for part, logits, other in zip(parts, wanted, others, strict=True):
            np.testing.assert_allclose(engine.forward(part, cache), logits, rtol=0, atol=0.02)
            assert np.abs(logits - other).max() > 0.5
        assert is_on_card(cache)


def test_sequences_share_steps(fake: FakeCuda, path: Path) -> None:
    """Prompts and single tokens of several sequences, in one step, are each as alone."""
    prompts = [TOKENS[:5], TOKENS[:140], TOKENS[7:20], [3]]
    with engine_on(path) as engine:
        caches = [engine.new_cache() for _ in prompts]
        works = [engine.work(p, c) for p, c in zip(prompts, caches, strict=True)]
        while left := [work for work in works if not work.is_over]:
            engine.scheduler.run_any(left)
        for work, prompt in zip(works, prompts, strict=True):
            [alone] = expected(path, [prompt])
            np.testing.assert_allclose(work.result(288), alone, rtol=0, atol=0.02)
        nexts = [engine.work([9], cache) for cache in caches]
        while left := [work for work in nexts if not work.is_over]:
            engine.scheduler.run_any(left)
        for work, prompt in zip(nexts, prompts, strict=True):
            alone = expected(path, [prompt, [9]])[1]
            np.testing.assert_allclose(work.result(288), alone, rtol=0, atol=0.02)


def test_sequences_here_and_there(fake: FakeCuda, path: Path) -> None:
    """What lies on the card and what does not takes turns; nobody gets another's logits."""
    with engine_on(path) as engine:
        there, here = engine.new_cache(), KVCache(engine.pool(), 256)
        works = [engine.work(TOKENS[:150], there), engine.work(TOKENS[:30], here)]
        while left := [work for work in works if not work.is_over]:
            engine.scheduler.run_any(left)
        assert is_on_card(there) and not is_on_card(here)
        for work, count in zip(works, (150, 30), strict=True):
            [alone] = expected(path, [TOKENS[:count]])
            np.testing.assert_allclose(work.result(288), alone, rtol=0, atol=0.02)


def test_forks_and_what_is_taken_back(fake: FakeCuda, path: Path) -> None:
    """Forks share pages until one writes; what was truncated is computed again."""
    with engine_on(path) as engine:
        cache = engine.new_cache()
        engine.forward(TOKENS[:200], cache)
        other = cache.fork()
        used = engine.card_placement.made.device.memory.used_bytes
        first, second = engine.forward([1], cache), engine.forward([2], other)
        assert engine.card_placement.made.device.memory.used_bytes > used
        cache.truncate(150)
        third = engine.forward(TOKENS[150:180], cache)
    for logits, tokens in ((first, [*TOKENS[:200], 1]), (second, [*TOKENS[:200], 2]),
                           (third, TOKENS[:180])):  # fmt: skip
        [alone] = expected(path, [tokens])
        np.testing.assert_allclose(logits, alone, rtol=0, atol=0.02)


def test_prompts_are_found_again(fake: FakeCuda, path: Path) -> None:
    """A prompt's pages on the card serve the next sequence, under the limit."""
    file = GGUFFile(path)
    with Engine(file, num_threads=2, attention=CUDA, cache_limit=1 << 20) as engine:
        first = engine.new_cache()
        engine.forward(TOKENS, first)
        first.close()
        again = engine.new_cache()
        assert again.reuse(TOKENS) == 256
        logits = engine.forward(TOKENS[256:], again)
    [alone] = expected(path, [TOKENS])
    np.testing.assert_allclose(logits, alone, rtol=0, atol=0.02)


def test_saved_there_and_loaded_here(fake: FakeCuda, path: Path, tmp_path: Path) -> None:
    """A session of the card's goes on on the CPU, and one of the CPU's on the card."""
    saved = tmp_path / "session"
    with engine_on(path) as engine, engine_on(path, AttentionChoice("cpu")) as other:
        for source, target in ((engine, other), (other, engine)):
            cache, loaded = source.new_cache(), target.new_cache()
            source.forward(TOKENS[:200], cache)
            save_cache(saved, cache, source.cache_maker)
            load_cache(saved, loaded, target.cache_maker)
            logits = target.forward([5], loaded)
            assert is_on_card(loaded) == (target is engine)
            [alone] = expected(path, [[*TOKENS[:200], 5]])
            np.testing.assert_allclose(logits, alone, rtol=0, atol=0.02)


def test_some_layers_stay(fake: FakeCuda, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the card has room for two of three layers the third stays, which is said once."""
    with engine_on(path) as engine:
        pages = CardLayout(engine.pool().layout, MODEL.layers)
        limit = engine._machine.card_bytes() + 16 * pages.page_bytes * 5 // 6
    with engine_on(path, AttentionChoice("cuda", gpu_memory=limit)) as engine:
        cache = engine.new_cache()
        parts = [TOKENS[:200], [4], [5]]
        for part, logits in zip(parts, expected(path, parts), strict=True):
            np.testing.assert_allclose(engine.forward(part, cache), logits, rtol=0, atol=0.02)
        assert cache.layout.num_card_layers == 2
    assert [r.message.startswith("the card has room for") for r in caplog.records] == [True]


def test_no_room(fake: FakeCuda, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A text that the card has no room for stays on the CPU, or comes back; it is the same."""
    parts = [TOKENS[:100], TOKENS[100:140], [4]]
    with engine_on(path) as engine:
        cache = engine.new_cache()
        for part, logits in zip(parts, expected(path, parts), strict=True):
            np.testing.assert_allclose(engine.forward(part, cache), logits, rtol=0, atol=0.02)
            memory = engine.card_placement.made.device.memory
            memory.limit_bytes = memory.used_bytes
        assert not is_on_card(cache)
        later = engine.new_cache()
        engine.forward(TOKENS[:10], later)
        assert not is_on_card(later)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["cuLaunchKernel", "cuStreamQuery", "cuCtxPushCurrent"])
def test_a_lost_card(
    fake: FakeCuda, path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The running step ends with the card's error, and all texts go on on the CPU."""
    with engine_on(path) as engine:
        cache, other = engine.new_cache(), engine.new_cache()
        engine.forward(TOKENS[:20], cache)
        engine.forward(TOKENS[:30], other)
        fake.fail(name, 719)
        fake.lose(719)
        with pytest.raises(CudaLostError, match="attention on the graphics card"):
            engine.forward([1], cache)
        with pytest.raises(CudaLostError, match="ask again"):
            engine.forward([1], other)
        for held, count in ((cache, 20), (other, 30)):
            assert held.reuse([*TOKENS[:count], 1]) == 0
            logits = engine.forward([*TOKENS[:count], 1], held)
            assert not is_on_card(held)
            [alone] = expected(path, [[*TOKENS[:count], 1]])
            np.testing.assert_array_equal(logits, alone)
    assert len(caplog.records) == 1


def test_cancelled_while_the_card_computes(fake: FakeCuda, path: Path) -> None:
    """Who cancels leaves at once, though the card is not done; the next step waits for it."""
    token = CancelToken()

    with engine_on(path) as engine:
        cache = engine.new_cache()
        engine.forward(TOKENS[:20], cache)
        fake.idle_after = 1 << 40
        threading.Timer(0.2, token.cancel).start()
        with pytest.raises(GenerationCancelled):
            engine.forward([1], cache, cancelled=token)
        assert fake.pending
        fake.idle_after = 2
        logits = engine.forward([2], cache)
    [alone] = expected(path, [[*TOKENS[:20], 2]])
    np.testing.assert_allclose(logits, alone, rtol=0, atol=0.02)


def test_unloaded(fake: FakeCuda, path: Path) -> None:
    """A model that rests gives the card back, unless a text lies there; later all is as before."""
    with engine_on(path) as engine:
        cache, other = engine.new_cache(), engine.new_cache()
        engine.forward(TOKENS[:20], cache)
        other.settle(1)
        engine.unload()
        assert sum(fake.retained.values()) == 1
        logits = engine.forward([1], cache)
        cache.close()
        engine.unload()
        assert not fake.leaks
        again = engine.forward([*TOKENS[:20], 1], other)
        assert is_on_card(other)
    for found in (logits, again):
        [alone] = expected(path, [[*TOKENS[:20], 1]])
        np.testing.assert_allclose(found, alone, rtol=0, atol=0.02)


def test_a_step_here_waits_for_a_cancelled_one_there(fake: FakeCuda, path: Path) -> None:
    """What the card still writes after a cancellation comes before the next step on the CPU."""
    token = CancelToken()
    with engine_on(path) as engine:
        there, here = engine.new_cache(), KVCache(engine.pool(), 256)
        engine.forward(TOKENS[:20], there)
        engine.forward(TOKENS[:30], here)
        fake.idle_after = 1 << 40
        threading.Timer(0.2, token.cancel).start()
        with pytest.raises(GenerationCancelled):
            engine.forward([1], there, cancelled=token)
        assert fake.pending
        engine.forward([2], here)
        assert not fake.pending


def test_a_launch_without_memory(fake: FakeCuda, path: Path) -> None:
    """A text whose launch finds no memory comes back, and others go on on the card."""
    with engine_on(path) as engine:
        cache, other = engine.new_cache(), engine.new_cache()
        engine.forward(TOKENS[:20], cache)
        engine.forward(TOKENS[:20], other)
        fake.fail("cuLaunchKernel", OUT_OF_MEMORY)
        logits = [engine.forward([1], held) for held in (cache, other)]
        assert not is_on_card(cache) and is_on_card(other)
    [alone] = expected(path, [[*TOKENS[:20], 1]])
    for found in logits:
        np.testing.assert_allclose(found, alone, rtol=0, atol=0.02)


def test_the_callers_context_stays(fake: FakeCuda, path: Path) -> None:
    """A thread that had a context of another library's has it after a step."""
    with engine_on(path) as engine:
        cache = engine.new_cache()
        fake.contexts.append(0xABC)
        engine.forward(TOKENS[:20], cache)
        engine.forward([1], cache)
        assert fake.contexts.pop() == 0xABC and not fake.contexts


def test_windows(fake: FakeCuda, tmp_path: Path) -> None:
    """Pages behind a sliding window are given back, and never looked for."""
    model = write_tiny_llama(
        tmp_path / "w.gguf", TinyLlama(context_length=1024, sliding_window=100)
    )
    parts = [TOKENS[:290], *([t] for t in TOKENS[:20])]
    with engine_on(model) as engine:
        cache = engine.new_cache()
        for part, logits in zip(parts, expected(model, parts), strict=True):
            np.testing.assert_allclose(engine.forward(part, cache), logits, rtol=0, atol=0.02)
        assert cache.pages[0] is None and is_on_card(cache)


def test_refused_choices(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No card, none of that number, and exactness are errors under "cuda"; not under "auto"."""
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(FakeCuda(FakeCard()))))
    with pytest.raises(ValueError, match="gpu 3"):
        engine_on(path, AttentionChoice("cuda", gpu=3))
    with pytest.raises(ValueError, match="exact"):
        Engine(GGUFFile(path), attention=CUDA, exact=True)

    def nothing(cls: type[Driver]) -> Driver:
        raise CudaError("no NVIDIA driver")

    monkeypatch.setattr(Driver, "load", classmethod(nothing))
    with pytest.raises(CudaError, match="no NVIDIA driver"):
        engine_on(path)
    with engine_on(path, AttentionChoice("auto")) as engine:
        cache = engine.new_cache()
        cache.settle(3000)
        assert not is_on_card(cache) and engine.card_placement.made.obstacle is not None


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Attention is found to be faster on the card from 100 tokens on; grows with every finding."""
    found: list[int] = []

    def crossing(cpu_seconds: list[float], card_seconds: list[float]) -> int:
        assert min(*cpu_seconds, *card_seconds) > 0
        found.append(100)
        return 100

    monkeypatch.setattr(placement, "SHORTEST_AUTO", 64)
    monkeypatch.setattr(placement, "CACHED_S", 60.0)
    monkeypatch.setattr(late_placement, "SHORTEST_AUTO", 64)
    monkeypatch.setattr(calibration, "folder_to_fill", lambda name: tmp_path)
    monkeypatch.setattr(calibration, "crossing", crossing)
    return found


def test_auto(fake: FakeCuda, path: Path, measured: list[int]) -> None:
    """Texts go to the card once they are as long as it takes; that is measured only once."""
    parts = [TOKENS[:60], TOKENS[60:99], *([t] for t in TOKENS[99:130])]
    for _ in range(2):
        with engine_on(path, AttentionChoice("auto")) as engine:
            cache = engine.new_cache()
            for part, logits in zip(parts, expected(path, parts), strict=True):
                np.testing.assert_allclose(engine.forward(part, cache), logits, rtol=0, atol=0.02)
                assert is_on_card(cache) == (cache.length > 128)
    assert measured == [100]


def test_kernels_are_compiled_while_texts_go_on(
    fake: FakeCuda, path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the card's compiler: the text stays here, and a later one goes there."""
    is_compiled = threading.Event()

    def compiled(*arguments: Any) -> dict[Kernel, str]:
        assert is_compiled.wait(60)
        return naive_card.stub_ptx(*arguments)

    monkeypatch.setattr(card_device, "ptx_of", compiled)
    monkeypatch.setattr(placement, "CACHED_S", 0.01)
    with engine_on(path, AttentionChoice("auto")) as engine:
        first, second = engine.new_cache(), engine.new_cache()
        engine.forward(TOKENS, first)
        assert not is_on_card(first)
        is_compiled.set()
        for worker in engine.card_placement.made._workers.values():
            worker.join()
        engine.forward(TOKENS, second)
        assert is_on_card(second)


def test_a_card_that_is_wrong(fake: FakeCuda, path: Path, measured: list[int]) -> None:
    """A card whose results are not the CPU's is not used, and all is computed on the CPU."""

    def wrong(launch: Launch) -> None:
        naive_card.run(launch)
        if "few" in launch.name:
            y = launch.arguments[2]
            naive_card.memory(int(y), (4,), np.float32)[:] += 1

    fake.run = wrong
    with engine_on(path, AttentionChoice("auto")) as engine:
        cache = engine.new_cache()
        logits = engine.forward(TOKENS, cache)
        assert not is_on_card(cache) and "differs from the CPU" in str(
            engine.card_placement.made.obstacle
        )
    np.testing.assert_array_equal(logits, expected(path, [TOKENS])[0])
    assert measured == []
