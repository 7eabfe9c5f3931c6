"""The driver's test double refuses what a real driver would refuse, and says so."""

from __future__ import annotations

import numpy as np
import pytest
from doubles.fake_cuda import FakeCard, FakeCuda
from doubles.fake_library import INVALID_HANDLE
from doubles.fake_memory import ALREADY_REGISTERED
from doubles.fake_modules import NO_BINARY, OUT_OF_RESOURCES, UNSUPPORTED_PTX
from harness.cuda import PTX, opened

from edgellama.cuda.cards import choose_card
from edgellama.cuda.context import Context
from edgellama.cuda.driver import NOT_READY, Driver
from edgellama.cuda.memory import RegisteredMemory
from edgellama.cuda.modules import Module
from edgellama.cuda.streams import Event, Stream
from edgellama.quant.errors import CudaError

ARGUMENTS = (0, 0, 1.0)


@pytest.mark.parametrize(
    ("version", "capability", "code"),
    [(11000, (8, 0), 0), (11000, (7, 5), NO_BINARY), (13000, (12, 0), 0)],
)
def test_code_must_be_for_the_card(version: int, capability: tuple[int, int], code: int) -> None:
    """PTX for an earlier card is compiled, for a later one refused."""
    fake = FakeCuda(FakeCard(capability=capability), version=version)
    context = opened(fake)
    assert failure(context, PTX) == code
    assert len(fake.violations) == (code != 0)


def test_code_must_be_for_the_driver() -> None:
    """A later version of PTX than the driver knows is refused."""
    fake = FakeCuda(version=11000)
    assert failure(opened(fake), PTX.replace(".version 7.0", ".version 7.1")) == UNSUPPORTED_PTX
    assert fake.violations == ["PTX 7.1 for this driver"]


def failure(context: Context, ptx: str) -> int:
    """The driver's code for a text; 0 if it takes it."""
    try:
        Module(context, ptx)
    except CudaError as error:
        return error.code
    return 0


def test_a_launch_must_fit_its_kernel() -> None:
    """No more threads than it was compiled for, and no more shared memory than was asked for."""
    fake = FakeCuda()
    context = opened(fake)
    stream = Stream(context)
    function = Module(context, PTX.replace(")\n{", ")\n.maxntid 64\n{")).function("double_it", 100)
    assert function.max_threads == 64
    stream.launch(function, (1, 1, 1), 64, ARGUMENTS, 100)
    with pytest.raises(CudaError) as refused:
        stream.launch(function, (1, 1, 1), 96, ARGUMENTS)
    assert refused.value.code == OUT_OF_RESOURCES
    for grid, shared_bytes in (((1, 1, 1), 101), ((1, 65536, 1), 0), ((1 << 31, 1, 1), 0)):
        with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_VALUE"):
            stream.launch(function, grid, 32, ARGUMENTS, shared_bytes)
    assert len(fake.violations) == 4


def test_what_belongs_to_a_card_is_used_there() -> None:
    """Streams, kernels and events of one card's context are nothing in another's."""
    fake = FakeCuda(FakeCard("A"), FakeCard("B"))
    driver = Driver(fake)
    here, there = (Context(driver, choose_card(driver, index)) for index in (0, 1))
    stream, function = Stream(here), Module(here, PTX).function("double_it")
    event = Event(here)
    other = Stream(there)
    event.record(stream)
    calls = (
        lambda: here.call("cuEventRecord", event.handle, other.handle),
        lambda: there.call("cuStreamSynchronize", stream.handle),
        lambda: other.launch(function, (1, 1, 1), 32, ARGUMENTS),
    )
    for call in calls:
        with pytest.raises(CudaError) as refused:
            call()
        assert refused.value.code == INVALID_HANDLE
    assert len(fake.violations) >= len(calls)


def test_memory_stays_pinned_while_the_card_may_write() -> None:
    """Until somebody has waited; other memory is not pinned twice."""
    fake = FakeCuda()
    context, array = opened(fake), np.zeros(64)
    shown = RegisteredMemory(context, array[:32])
    RegisteredMemory(context, array[32:]).close()
    with pytest.raises(CudaError) as refused:
        RegisteredMemory(context, array[31:])
    assert refused.value.code == ALREADY_REGISTERED
    fake.violations.clear()
    stream, module = Stream(context), Module(context, PTX)
    stream.launch(module.function("double_it"), (1, 1, 1), 32, ARGUMENTS)
    shown.close()
    assert fake.violations == ["unpinned while the card may write to it"]


def test_times_are_known_once_they_are_there() -> None:
    """Events that the stream has not come to have no distance yet."""
    fake = FakeCuda()
    context = opened(fake)
    stream, start, end = Stream(context), Event(context), Event(context)
    start.record(stream)
    end.record(stream)
    with pytest.raises(CudaError) as early:
        start.seconds_until(end)
    assert early.value.code == NOT_READY
    stream.synchronize()
    assert start.seconds_until(end) > 0
    assert fake.violations == []


def test_contexts_are_put_back() -> None:
    """A context that a thread has left current is a leak."""
    fake = FakeCuda()
    context = opened(fake)
    context.driver.call("cuCtxPushCurrent", context.handle)
    context.close()
    assert fake.leaks == {"current contexts": 1}
