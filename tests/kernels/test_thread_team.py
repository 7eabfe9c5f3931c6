"""The team of threads: every task once, none early, sleep when idle, end when told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from harness import naive_kernels as naive
from harness.kernels import TIERS, runner_of, tier_name
from harness.patience import until

from edgellama.engine.program.program import Op, Program
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.layouts import CACHE_LINE
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS, ThreadTeam, aligned_words
from edgellama.quant.errors import KernelError

ROWS, WIDTH = 13, 64


@pytest.fixture(scope="module", params=TIERS[:1], ids=tier_name)
def kernels(request: pytest.FixtureRequest) -> CompiledKernels:
    """The few kernels that the programs here call, on each tier."""
    runner = runner_of(request.param)
    runner.preload([*ENTRY_KERNELS, "add_bias", "swiglu_float"])
    return runner.kernels


@pytest.fixture(params=[1, 2, 3, 5])
def team(request: pytest.FixtureRequest, kernels: CompiledKernels) -> Iterator[ThreadTeam]:
    """Teams with fewer, as many and more threads than cores."""
    team = ThreadTeam(kernels, request.param).start()
    yield team
    team.close()


class Counting:
    """A program that adds one to every number of ``x`` in each of its ops."""

    def __init__(self, kernels: CompiledKernels, num_ops: int, rows: int = ROWS) -> None:
        self.x, self._bias = np.zeros((rows, WIDTH), np.float32), np.ones(WIDTH, np.float32)
        arguments: dict[str, int | float | naive.Any] = {
            "x": self.x.ctypes.data,
            "x_stride": 4 * WIDTH,
            "width": WIDTH,
            "num_tokens": rows,
            "bias": self._bias.ctypes.data,
        }
        self.program = Program([Op(Kernel("add_bias"), arguments)] * num_ops, kernels)

    def run(self, team: ThreadTeam, token: CancelToken | None = None) -> bool:
        """One job."""
        self.program.prepare(team.next_job)
        flag = None if token is None else token.flag
        return team.run(self.program.memory, flag, owner=self.program)

    @property
    def ops_done(self) -> int:
        """How many ops have seen a task of the last job finished."""
        return int((self.program._counters[:, layout.NUM_DONE // 8] > 0).sum())


def test_every_task_once(team: ThreadTeam, kernels: CompiledKernels) -> None:
    """Jobs in quick succession do each task of each op once, and none before its barrier."""
    counting = Counting(kernels, num_ops=20)
    for job in range(1, 201):
        assert counting.run(team)
        assert (counting.x == 20 * job).all(), job


def test_jobs_after_pauses(team: ThreadTeam, kernels: CompiledKernels) -> None:
    """Workers that sleep, or are about to, take part again: no job hangs or loses a task."""
    counting = Counting(kernels, num_ops=3)
    rng = np.random.default_rng(0)
    for job in range(1, 61):
        time.sleep(float(rng.choice([0.0, 0.0005, 0.002, 0.02])))
        assert counting.run(team)
        assert (counting.x == 3 * job).all(), job


def test_programs_in_turn(team: ThreadTeam, kernels: CompiledKernels) -> None:
    """Two programs that alternate, as body and head of a step do, do not disturb each other."""
    first, second = Counting(kernels, 7), Counting(kernels, 2, rows=1)
    for job in range(1, 151):
        assert first.run(team) and second.run(team)
        assert (first.x == 7 * job).all() and (second.x == 2 * job).all()


def test_cancelled_before_the_start(team: ThreadTeam, kernels: CompiledKernels) -> None:
    """A job whose flag is set already does nothing; the next one is complete."""
    counting, token = Counting(kernels, num_ops=5), CancelToken()
    token.cancel()
    for _ in range(50):
        counting.x[:] = 0
        assert not counting.run(team, token)
        assert not counting.x.any()
    counting.x[:] = 0
    assert counting.run(team, CancelToken())
    assert (counting.x == 5).all()


def test_cancel_within_one_op(team: ThreadTeam, kernels: CompiledKernels) -> None:
    """A flag set by another thread ends the job, and nothing of it happens later."""
    rows, width, num_ops = 32, 64 * 1024, 2000
    gate, y = np.ones((rows, width), np.float32), np.empty((rows, width), np.float32)
    arguments: dict[str, int | float | naive.Any] = {
        "gate": gate.ctypes.data, "up": gate.ctypes.data, "y": y.ctypes.data,
        "stride": 4 * width, "width": width, "num_tokens": rows,
        "q": 0, "q_scale": 0, "q_sum": 0, "q_half_sum": 0, "orders": 0,
    }  # fmt: skip
    counting = Counting(kernels, 1)
    counting.program = Program([Op(Kernel("swiglu", ("float",)), arguments)] * num_ops, kernels)
    token = CancelToken()

    def cancel() -> None:
        while counting.ops_done < 3:
            time.sleep(0.001)
        token.cancel()

    canceller = threading.Thread(target=cancel)
    counting.program.prepare(team.next_job)
    canceller.start()
    finished = team.run(counting.program.memory, token.flag, owner=counting.program)
    ops_after = counting.ops_done
    canceller.join()
    assert not finished
    # The thread that cancels may lose its core between counting and cancelling.
    assert ops_after < num_ops / 2
    time.sleep(0.05)
    assert counting.ops_done == ops_after


def test_jobs_after_cancelled_ones(team: ThreadTeam, kernels: CompiledKernels) -> None:
    """Jobs that are cancelled at any moment leave no late work behind for the next."""
    counting, rng = Counting(kernels, num_ops=400), np.random.default_rng(1)
    for _ in range(40):
        token = CancelToken()
        timer = threading.Timer(float(rng.uniform(0, 0.002)), token.cancel)
        timer.start()
        counting.run(team, token)
        counting.x[:] = 0
        assert counting.run(team)
        assert (counting.x == 400).all()
        timer.join()


def test_idle_threads_use_no_processor(kernels: CompiledKernels) -> None:
    """Soon after the last job the threads sleep."""
    team, counting = ThreadTeam(kernels, 4).start(), Counting(kernels, 10)
    try:
        counting.run(team)
        until(lambda: sum(team._asleep) == 3)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.02
    finally:
        team.close()


def test_many_threads_on_few_cores(kernels: CompiledKernels) -> None:
    """Far more threads than cores do all of a job, once."""
    num_threads = 4 * (os.cpu_count() or 1)
    counting = Counting(kernels, num_ops=300)
    team = ThreadTeam(kernels, num_threads).start()
    try:
        counting.run(team)
        for _ in range(10):
            assert counting.run(team)
        assert (counting.x == 11 * 300).all()
    finally:
        team.close()


def test_close(kernels: CompiledKernels) -> None:
    """Closing ends every thread, whether it sleeps or has just worked; closing twice is fine."""
    for pause_s in (0.0, 0.1):
        before = set(threading.enumerate())
        team = ThreadTeam(kernels, 4).start()
        assert len(set(threading.enumerate()) - before) == 3
        Counting(kernels, 5).run(team)
        time.sleep(pause_s)
        team.close()
        team.close()
        assert set(threading.enumerate()) <= before


def test_close_of_a_team_that_never_ran(kernels: CompiledKernels) -> None:
    """A team can be closed at once."""
    before = set(threading.enumerate())
    ThreadTeam(kernels, 3).start().close()
    assert set(threading.enumerate()) <= before


def test_no_more_threads(kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system refuses a thread, that is said, and those that were started end."""
    before, start = set(threading.enumerate()), threading.Thread.start

    def start_two(thread: threading.Thread) -> None:
        if thread.name.endswith("-3"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(KernelError, match="no 5 threads can be started"):
        ThreadTeam(kernels, 5).start()
    assert set(threading.enumerate()) <= before


def test_interrupted_before_the_job(
    team: ThreadTeam, kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal between announcing a job and posting it costs that job alone; workers go on."""
    counting, execute = Counting(kernels, num_ops=20), team._execute

    def interrupted(*arguments: int) -> None:
        raise KeyboardInterrupt

    for job in range(1, 21):
        monkeypatch.setattr(team, "_execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            counting.run(team)
        monkeypatch.setattr(team, "_execute", execute)
        assert counting.run(team)
        assert (counting.x == 20 * job).all(), job


def test_closed_before_the_job(
    team: ThreadTeam, kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler that closes the team before a job is posted ends the job, too."""
    counting, execute = Counting(kernels, num_ops=20), team._execute

    def closed(*arguments: int) -> None:
        team.close()
        counting.program.withdraw()
        execute(*arguments)

    monkeypatch.setattr(team, "_execute", closed)
    assert not counting.run(team)
    assert not counting.run(team)
    assert not counting.x.any()


def test_aligned_words() -> None:
    """Memory for counters begins on a cache line, is zero and long enough."""
    for num_bytes in (64, 128, 640):
        words = aligned_words(num_bytes)
        assert words.ctypes.data % CACHE_LINE == 0
        assert words.nbytes == num_bytes
        assert not words.any()
