"""Instruments of the engine: timed ops, counted work, a plain read of the weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness.kernels import TIERS, runner_of, tier_name
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.program.program import Op, Program
from edgellama.engine.running.step_timer import StepTimer
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.kernels_cpu.layouts import PARTIAL_HEAD_BYTES
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS, ThreadTeam
from edgellama.measure.op_profile import (
    by_kernel,
    by_kind,
    by_layer,
    profile_step,
    quiet_median,
    total,
)
from edgellama.measure.op_work import Step, Work, op_work, total_work
from edgellama.measure.plain_read import PlainRead
from edgellama.quant.errors import GenerationCancelled
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(biases=True)
WIDTH, HIDDEN, LAYERS, VOCAB = MODEL.width, MODEL.feed_forward, MODEL.layers, MODEL.vocab_size
KEY_WIDTH = WIDTH // MODEL.heads * MODEL.kv_heads


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFFile]:
    """A tiny model with biases, f32 throughout."""
    path: Path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    with GGUFFile(write_tiny_llama(path, MODEL)) as file:
        yield file


@pytest.fixture(scope="module")
def timed(file: GGUFFile) -> Iterator[tuple[Engine, StepTimer]]:
    """An engine with a timer."""
    timer = StepTimer()
    with Engine(file, num_threads=2, timer=timer) as engine:
        yield engine, timer


def test_a_timer_changes_no_result(file: GGUFFile, timed: tuple[Engine, StepTimer]) -> None:
    """Logits with a timer are those without, for long and short steps."""
    tokens = np.arange(40) % VOCAB
    with Engine(file, num_threads=2) as plain:
        for engine in (plain, timed[0]):
            cache = engine.new_cache(64)
            logits = [engine.forward(tokens, cache), engine.forward([1], cache)]
            if engine is plain:
                expected = logits
    for own, other in zip(logits, expected, strict=True):
        np.testing.assert_array_equal(own, other)


def test_times_of_ops_add_up_to_the_step(timed: tuple[Engine, StepTimer]) -> None:
    """Every op has a time, none negative, and together they are within the time of the step."""
    engine, timer = timed
    cache = engine.new_cache(64)
    engine.forward([1], cache)
    timer.take_jobs()
    started = time.perf_counter()
    engine.forward(np.arange(40) % VOCAB, cache)
    elapsed = time.perf_counter() - started
    jobs = timer.take_jobs()
    assert timer.take_jobs() == []
    assert jobs[0].ops[0].label == "token_embd.weight"
    assert [op.kernel.name for op in jobs[-1].ops[-2:]] == ["rms_norm_float", "gemv_F32"]
    for job in jobs:
        assert len(job.seconds) == len(job.ops)
        assert (job.seconds >= 0).all()
    assert 0 < sum(job.seconds.sum() for job in jobs) < elapsed


def test_cancelled_steps_leave_no_times(timed: tuple[Engine, StepTimer]) -> None:
    """A step that was stopped is not among the jobs."""
    engine, timer = timed
    timer.take_jobs()
    token = CancelToken()
    token.cancel()
    with pytest.raises(GenerationCancelled):
        engine.forward([1], engine.new_cache(64), cancelled=token)
    assert timer.take_jobs() == []


def test_profile_groups(timed: tuple[Engine, StepTimer]) -> None:
    """Groups keep all of the time and work; layers have their biases; the cache is as before."""
    engine, timer = timed
    cache = engine.new_cache(64)
    engine.forward([1, 2, 3], cache)
    times = profile_step(engine, timer, cache, num_tokens=1, repetitions=3)
    assert cache.length == 3
    whole = total(times, "step")
    for group in (by_kind, by_kernel, by_layer):
        summed = total(group(times), "step")
        assert summed.work == whole.work
        assert summed.seconds == pytest.approx(whole.seconds)
        assert sum(time.count for time in group(times)) == len(times)
    assert [t.seconds for t in by_kind(times)] == sorted(t.seconds for t in by_kind(times))[::-1]
    layers = [time for time in by_layer(times) if time.layer]
    assert [time.layer for time in layers] == ["0", "1"]
    # Six ops, two norms among them, seven matrices, seven biases.
    assert {time.count for time in layers} == {6 + 7 + 7}
    assert {time.name for time in by_kernel(times)} >= {
        "gemv_F32",
        "add_bias",
        "attention_direct_f16_f16_2",
    }


def test_work_of_a_step(timed: tuple[Engine, StepTimer]) -> None:
    """Products are counted by hand: matrices, and queries with every key that they see."""
    engine, _ = timed
    cache = engine.new_cache(64)
    head = Work(4 * VOCAB * WIDTH + 4 * (WIDTH + VOCAB) + 8 * WIDTH, VOCAB * WIDTH)
    matrices = LAYERS * (2 * WIDTH * WIDTH + 2 * WIDTH * KEY_WIDTH + 3 * WIDTH * HIDDEN)
    for num_tokens, position in ((1, 0), (1, 20), (30, 0), (30, 10)):
        pairs = sum(position + token + 1 for token in range(num_tokens))
        step = Step.of(num_tokens, position, cache)
        ops = engine.step_ops(num_tokens)
        body, last = total_work(ops[:-2], step), total_work(ops[-2:], step)
        # Of a prompt's tokens the last alone goes through the last layer's end.
        left_out = (num_tokens - 1) * (WIDTH * WIDTH + 3 * WIDTH * HIDDEN) if num_tokens > 12 else 0
        assert body.num_macs == num_tokens * matrices - left_out + LAYERS * 2 * WIDTH * pairs
        assert body.num_bytes > 4 * matrices
        assert last == head


def test_work_of_single_ops(timed: tuple[Engine, StepTimer]) -> None:
    """Bytes of an op are those of its rows and of the cache; unknown kernels have none."""
    engine, _ = timed
    ops = {op.kernel.name: op for op in engine.step_ops(2)}
    step = Step(2, 5, 1000)
    assert op_work(ops["embed_F32"], step) == Work(2 * 8 * WIDTH, 0)
    assert op_work(ops["attention_direct_f16_f16_2"], step) == Work(
        7 * 1000 + 2 * 2 * 4 * WIDTH, 2 * WIDTH * (6 + 7)
    )
    assert op_work(ops["merge_attention"], step) == Work(0, 0)
    # Tokens that see 1024 and 1025 keys in parts of 512 merge two and three results.
    split = Step(2, 1023, 1000, 512)
    merged = 5 * (4 * WIDTH + PARTIAL_HEAD_BYTES * MODEL.heads) + 2 * 4 * WIDTH
    assert op_work(ops["merge_attention"], split) == Work(merged, 5 * WIDTH)
    # Behind a window of 4, tokens at 5 and 6 see positions from 2, and from 3.
    windowed = Step(2, 5, 1000, window=4)
    assert op_work(ops["attention_direct_f16_f16_2"], windowed) == Work(
        5 * 1000 + 2 * 2 * 4 * WIDTH, 2 * WIDTH * (4 + 4)
    )
    # Of parts of 512 they see one each, or two where the window begins in the part before.
    for position, window, parts in ((1600, 36, 2), (1500, 478, 3)):
        windowed = Step(2, position, 1000, 512, window)
        merged = parts * (4 * WIDTH + PARTIAL_HEAD_BYTES * MODEL.heads) + 2 * 4 * WIDTH
        assert op_work(ops["merge_attention"], windowed) == Work(merged, parts * WIDTH)
    read = Op(Kernel("read_bytes"), {"address": 0, "num_bytes": 9, "sink": 0})
    assert op_work(read, step) == Work(0, 0)


def test_plain_read_covers_the_weights(timed: tuple[Engine, StepTimer], file: GGUFFile) -> None:
    """It reads every matrix of a decode step, the embedding only if it is the output."""
    plain = PlainRead(timed[0])
    expected = sum(
        tensor.num_bytes
        for name, tensor in file.tensors.items()
        if len(tensor.shape) == 2 and name != "token_embd.weight"
    )
    assert plain.num_bytes == expected
    assert plain.seconds() > 0
    assert plain.seconds() > 0


@pytest.mark.parametrize("tier", TIERS, ids=tier_name)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_every_byte_is_read(tier: Tier, num_threads: int) -> None:
    """What the threads have merged is the union of all bits of the whole vectors of all tasks."""
    runner = runner_of(tier)
    runner.preload([*ENTRY_KERNELS, "read_bytes"])
    quantum = 16 * tier.lanes
    team = ThreadTeam(runner.kernels, num_threads).start()
    try:
        for num_bytes in (quantum, 3 * quantum, (1 << 18) + quantum, 5 << 18):
            data = np.zeros(num_bytes, np.uint8)
            places = np.random.default_rng(num_bytes).choice(num_bytes, 8, replace=False)
            data[places] = 1 << np.arange(8)
            sink = np.zeros((num_threads, 64), np.uint8)
            arguments = {
                "address": int(data.ctypes.data),
                "num_bytes": num_bytes,
                "sink": int(sink.ctypes.data),
            }
            program = Program([Op(Kernel("read_bytes"), dict(arguments))], runner.kernels)
            program.prepare(team.next_job)
            assert team.run(program.memory, owner=program)
            assert np.bitwise_or.reduce(sink, axis=None) == 255
    finally:
        team.close()


def test_disturbed_runs_do_not_count() -> None:
    """Where another process had a core for a while, the times of the other runs are shown."""
    quiet = [[4.0, 1.0, 3.0], [4.2, 1.1, 3.1], [4.1, 0.9, 3.2]]
    disturbed = [[9.0, 0.0, 3.0], [4.0, 12.0, 0.0], [8.0, 8.0, 8.0]]
    found = quiet_median(np.array(quiet + disturbed))
    assert found.tolist() == pytest.approx([4.1, 1.0, 3.1])
