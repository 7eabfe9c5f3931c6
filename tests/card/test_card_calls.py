"""A layer's calls of the graphics driver: in order, up to the first that fails, until it is done.

The driver's functions are doubles in Python that write down how they are called.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from harness.kernels import KernelRunner, runner_of

from edgellama.kernels_cpu import layouts
from edgellama.kernels_cpu.machine.cpu import GENERIC

I32, I64 = ctypes.c_int32, ctypes.c_int64
LAUNCHES = {"store": 11, "few": 12, "many": 13}
COUNTS = {"num_tokens": 9, "num_few_tasks": 5, "num_many_tasks": 2}


@pytest.fixture(scope="module")
def runner() -> Iterator[KernelRunner]:
    """The kernel for every CPU."""
    runner = runner_of(GENERIC)
    runner.preload(["attend_on_card"])
    yield runner


class RecordingDriver:
    """A test double: functions of the driver that write down their arguments."""

    def __init__(self, **statuses: int | list[int]) -> None:
        """What functions return, by name; of a list one after the other, 0 at its end."""
        self.calls: list[tuple[object, ...]] = []
        self._statuses = {
            name: [value] if isinstance(value, int) else value for name, value in statuses.items()
        }
        launch = (I64, *[I32] * 7, I64, I64, I64)
        self._functions = [
            self._function("push", I64),
            self._function("copy", I64, I64, I64, I64),
            self._function("launch", *launch),
            self._function("is_ready", I64),
            self._function("pop", I64),
        ]
        addresses = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in self._functions]
        self.record = np.array([71, 72, 0, 0, *addresses, *[0] * 7], np.int64)

    def _function(self, name: str, *arguments: type[ctypes._SimpleCData[int]]) -> object:
        def call(*values: int) -> int:
            self.calls.append((name, *values))
            left = self._statuses.get(name, [])
            return left.pop(0) if left else 0

        return ctypes.CFUNCTYPE(I32, *arguments)(call)

    @property
    def status(self) -> int:
        """What the record says of the last call."""
        return int(self.record[layouts.CARD_STATUS // 8])


def run(
    runner: KernelRunner, driver: RecordingDriver, cancelled: int = 0, at_once: int = 1 << 31,
    **numbers: int,
) -> list[int]:  # fmt: skip
    """Run the kernel once with a table of 100 bytes, and numbers of blocks of COUNTS.

    The first block of the last launch of each kernel.
    """
    bound, firsts = np.array([at_once], np.int64), np.full(len(LAUNCHES), -1, np.int64)
    records = np.zeros((len(LAUNCHES), layouts.LAUNCH_BYTES // 8), np.int64)
    for number, function in enumerate(LAUNCHES.values()):
        records[number] = (
            function, 3, number + 1, 32 * (number + 1), 1000 * number, 500, bound.ctypes.data,
            firsts[number:].ctypes.data,
        )  # fmt: skip
    at = {
        name: records.ctypes.data + number * layouts.LAUNCH_BYTES
        for number, name in enumerate(LAUNCHES)
    }
    flag = np.array([cancelled], np.int64)
    word = np.array([flag.ctypes.data], np.int64)
    arguments = {"table": 81, "table_source": 82, "table_bytes": 100, **COUNTS, **numbers}
    runner("attend_on_card", 2, card=driver.record, cancel_word=word, **at, **arguments)
    return firsts.tolist()


def launched(function: int, x: int, number: int) -> tuple[object, ...]:
    """The call that launches a kernel."""
    shape = (x, 3, number + 1, 32 * (number + 1), 1, 1)
    return ("launch", function, *shape, 1000 * number, 72, 500, 0)


def test_a_layer(runner: KernelRunner) -> None:
    """Context, table, three launches, and questions until the card is done."""
    driver = RecordingDriver(is_ready=[layouts.NOT_READY, layouts.NOT_READY])
    run(runner, driver)
    launches = [
        launched(*pair, i)
        for i, pair in enumerate(zip(LAUNCHES.values(), COUNTS.values(), strict=True))
    ]
    assert driver.calls == [
        ("push", 71),
        ("copy", 81, 82, 100, 72),
        *launches,
        *[("is_ready", 72)] * 3,
        ("pop", driver.record.ctypes.data + layouts.CARD_POPPED),
    ]
    assert driver.status == 0


def test_a_launch_that_would_take_too_long_is_several(runner: KernelRunner) -> None:
    """Each has as many blocks as there may be, and is sent before the next; one that fails is the
    last."""
    driver = RecordingDriver(is_ready=[layouts.NOT_READY, 0, layouts.NOT_READY])
    firsts = run(runner, driver, at_once=2, num_tokens=4, num_few_tasks=0, num_many_tasks=3)
    assert driver.calls[2:-1] == [
        launched(11, 2, 0), ("is_ready", 72), launched(11, 2, 0),
        launched(13, 2, 2), ("is_ready", 72), launched(13, 1, 2), *[("is_ready", 72)] * 2,
    ]  # fmt: skip
    assert (firsts, driver.status) == ([2, -1, 2], 0)
    driver = RecordingDriver(is_ready=719)
    run(runner, driver, at_once=2)
    assert [call[0] for call in driver.calls[-3:]] == ["launch", "is_ready", "pop"]
    assert driver.status == 719


def test_what_is_not_there_is_not_launched(runner: KernelRunner) -> None:
    """Without a table and without segments of many tokens there is neither copy nor launch."""
    driver = RecordingDriver()
    run(runner, driver, table_bytes=0, num_many_tasks=0)
    assert [call[0] for call in driver.calls] == ["push", "launch", "launch", "is_ready", "pop"]


@pytest.mark.parametrize("failing", ["push", "copy", "launch", "is_ready"])
def test_a_call_that_fails(runner: KernelRunner, failing: str) -> None:
    """It is the last one but for the thread's own context: its status stays, and a later layer
    calls nothing."""
    driver = RecordingDriver(**{failing: 719})
    run(runner, driver)
    names = [call[0] for call in driver.calls]
    assert [name for name in names if name != "pop"][-1] == failing and driver.status == 719
    assert ("pop" in names) == (failing != "push")
    num_calls = len(driver.calls)
    run(runner, driver)
    assert len(driver.calls) == num_calls and driver.status == 719


def test_cancelled(runner: KernelRunner) -> None:
    """Who waits for the card leaves at once; that is no failure."""
    driver = RecordingDriver(is_ready=[layouts.NOT_READY] * 1000)
    run(runner, driver, cancelled=1)
    assert [call[0] for call in driver.calls].count("is_ready") == 1 and driver.status == 0
