"""Programs: how ops are packed, checked and bound."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest
from harness import naive_kernels as naive
from harness.kernels import TIERS, runner_of

from edgellama.engine.program.program import Bound, Op, Program
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS, ThreadTeam


@pytest.fixture(scope="module")
def kernels() -> CompiledKernels:
    """The few kernels that these programs call."""
    runner = runner_of(TIERS[0])
    runner.preload([*ENTRY_KERNELS, "add_bias", "rms_norm_float"])
    return runner.kernels


def bias_op(rows: naive.Array, addend: naive.Array, **changes: int | Bound) -> Op:
    """rows += addend."""
    arguments: dict[str, int | float | Bound] = {
        "x": rows.ctypes.data,
        "x_stride": rows.strides[0],
        "width": rows.shape[1],
        "num_tokens": len(rows),
        "bias": addend.ctypes.data,
    }
    return Op(Kernel("add_bias"), arguments | changes)


def run(program: Program, kernels: CompiledKernels, **values: int) -> None:
    """One run on a team of its own."""
    team = ThreadTeam(kernels, 2).start()
    try:
        program.prepare(team.next_job, **values)
        assert team.run(program.memory, owner=program)
    finally:
        team.close()


def test_arguments_are_checked() -> None:
    """An op with a missing, unknown or superfluous argument is refused when it is built."""
    x, bias = np.zeros((1, 4), np.float32), np.ones(4, np.float32)
    good = dict(bias_op(x, bias).arguments)
    for wrong in (good | {"scale": 1}, {k: v for k, v in good.items() if k != "bias"}, {}):
        with pytest.raises(TypeError, match="add_bias takes"):
            Op(Kernel("add_bias"), wrong)
    with pytest.raises(KeyError):
        Op(Kernel("no_such_kernel"), good)


def test_last_op_needs_a_barrier(kernels: CompiledKernels) -> None:
    """A program that would return before its work is done is refused, and so is an empty one."""
    x, bias = np.zeros((1, 4), np.float32), np.ones(4, np.float32)
    op = bias_op(x, bias)
    with pytest.raises(ValueError, match="barrier"):
        Program([op, Op(op.kernel, op.arguments, barrier=False)], kernels)
    with pytest.raises(ValueError, match="barrier"):
        Program([], kernels)


def test_bound_values(kernels: CompiledKernels) -> None:
    """Names take the values of each run plus their offsets, in every op that uses them."""
    x, bias = np.zeros((6, 4), np.float32), np.ones(4, np.float32)
    count, first = Bound("count"), Bound("first")
    ops = [
        bias_op(x, bias, num_tokens=count, x=first),
        bias_op(x, bias, num_tokens=1, x=Bound("first", 5 * x.strides[0])),
    ]
    program = Program(ops, kernels)
    run(program, kernels, count=2, first=x.ctypes.data, unused=99)
    np.testing.assert_array_equal(x[:, 0], [1, 1, 0, 0, 0, 1])
    y = np.zeros_like(x)
    run(program, kernels, count=3, first=y.ctypes.data)
    np.testing.assert_array_equal(y[:, 3], [1, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(x[:, 0], [1, 1, 0, 0, 0, 1])


def word_at(address: int) -> int:
    """The 64 bits at an address, as threads read them."""
    return ctypes.c_int64.from_address(address).value


def test_counters_are_seen_before_new_values(
    kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock is released and taken between fresh counters and new values, in each new binding."""
    seen: list[tuple[str, int, int]] = []

    class Fence:
        def __enter__(self) -> None:
            self.note("taken")

        def __exit__(self, *_: object) -> None:
            self.note("released")

        def note(self, event: str) -> None:
            record, counter = (int(word) for word in program.memory[2:4])
            seen.append((event, word_at(counter) >> layout.JOB_SHIFT, word_at(record)))

    x, bias = np.zeros((1, 4), np.float32), np.ones(4, np.float32)
    monkeypatch.setattr(threading, "Lock", Fence)
    program = Program([bias_op(x, bias, x=Bound("first"))], kernels)
    for job, value in ((7, 111), (8, 222)):
        seen.clear()
        before = word_at(int(program.memory[2]))
        program.prepare(job, first=value)
        events = ("taken", "released", "taken", "released")
        assert seen == [(event, job, before) for event in events]
        assert word_at(int(program.memory[2])) == value


def test_float_arguments(kernels: CompiledKernels) -> None:
    """Numbers that a kernel takes as f32 arrive as they were given, among integers."""
    x = np.full((2, 8), 3.0, np.float32)
    weight, y = np.ones(8, np.float32), np.zeros((2, 8), np.float32)
    op = Op(
        Kernel("rms_norm", ("float",)),
        {
            "x": x.ctypes.data, "x_stride": 32, "width": 8, "num_tokens": 2,
            "weight": weight.ctypes.data, "y": y.ctypes.data, "y_stride": 32, "epsilon": 7.0,
            "q": 0, "q_scale": 0, "q_sum": 0, "q_half_sum": 0, "orders": 0,
        },
    )  # fmt: skip
    run(Program([op], kernels), kernels)
    np.testing.assert_allclose(y, naive.rms_norm(x, weight, 7.0), 1e-6)


def test_ops_without_barriers_between(kernels: CompiledKernels) -> None:
    """Ops that may run together are all done at the next barrier."""
    rows = [np.zeros((5, 4), np.float32) for _ in range(4)]
    bias = np.ones(4, np.float32)
    ops = [Op(op.kernel, op.arguments, barrier=False) for op in (bias_op(x, bias) for x in rows)]
    ops += [bias_op(x, bias) for x in rows]
    run(Program(ops, kernels), kernels)
    assert all((x == 2).all() for x in rows)
