"""What a process has on a card, against a double of the driver that checks its calls."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from doubles.fake_cuda import LAUNCH_TIMEOUT, FakeCard, FakeCuda
from doubles.fake_library import ILLEGAL_ADDRESS, INVALID_VALUE, UNKNOWN
from doubles.fake_modules import Launch
from harness.cuda import PTX, everything, opened
from hypothesis import given
from hypothesis import strategies as st

from edgellama.cuda import cards
from edgellama.cuda import memory as cuda_memory
from edgellama.cuda.context import Context
from edgellama.cuda.driver import (
    FUNCTIONS,
    OUT_OF_MEMORY,
    Driver,
)
from edgellama.cuda.memory import CardMemory, MappedMemory, RegisteredMemory
from edgellama.cuda.modules import Module
from edgellama.cuda.streams import Stream
from edgellama.engine.weights.memory import reserve
from edgellama.quant.errors import (
    CudaError,
    CudaLostError,
    CudaMemoryError,
)


@given(content=st.binary(min_size=1, max_size=500), start=st.integers(0, 300))
def test_bytes_come_back(content: bytes, start: int) -> None:
    """What is copied to the card and within it comes back, in the stream's order."""
    fake = FakeCuda()
    context = opened(fake)
    memory, stream = CardMemory(context), Stream(context)
    one, two = memory.allocate(1000), memory.allocate(1000)
    result = MappedMemory(context, 1000)
    stream.fill(one.address, 7, 1000)
    source = ctypes.create_string_buffer(content, len(content))
    stream.copy_to_card(one.address + start, ctypes.addressof(source), len(content))
    ctypes.memset(source, 0, len(content))
    stream.copy_on_card(two.address, one.address, 1000)
    stream.copy_from_card(result.address, two.address, 1000)
    assert not stream.is_idle()
    stream.synchronize()
    assert stream.is_idle()
    expected = bytearray(b"\x07" * 1000)
    expected[start : start + len(content)] = content
    assert result.view().tobytes() == bytes(expected)
    context.close()
    assert (fake.violations, fake.leaks) == ([], {})


def test_pinned_memory_is_seen_from_both_sides() -> None:
    """It holds zeros, and lives as long as an array of it."""
    fake = FakeCuda()
    context = opened(fake)
    view = MappedMemory(context, 64).view()[8:]
    gc.collect()
    assert view.shape == (56,)
    assert not view.any()
    assert fake.leaks["host memory"] == 1
    del view
    gc.collect()
    assert "host memory" not in fake.leaks


def test_an_array_is_pinned_where_it_lies() -> None:
    """The card sees the array's own memory, which lives until it is unpinned."""
    fake = FakeCuda()
    context = opened(fake)
    array = np.arange(10.0)
    shown = RegisteredMemory(context, array)
    assert shown.device_address == array.ctypes.data
    with pytest.raises(CudaError, match="CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"):
        RegisteredMemory(context, array[:4])
    held = weakref.ref(array)
    del array
    gc.collect()
    assert held() is not None
    shown.close()
    gc.collect()
    assert held() is None
    assert fake.host_memory == {}


def test_a_kernel_gets_its_arguments() -> None:
    """Whole numbers are passed as int64, others as float32; the kernel runs in its turn."""
    seen: list[Launch] = []
    fake = FakeCuda(run=seen.append)
    context = opened(fake)
    module, stream = Module(context, PTX), Stream(context)
    function = module.function("double_it", shared_bytes=70_000)
    assert (function.num_registers, function.local_bytes, function.max_threads) == (40, 0, 1024)
    stream.launch(function, (3, 2, 1), 32, (1 << 40, -5, 0.5), 70_000)
    assert seen == []
    stream.synchronize()
    assert seen == [Launch("double_it", (3, 2, 1), 32, 70_000, (1 << 40, -5, 0.5))]
    with pytest.raises(CudaError, match="CUDA_ERROR_NOT_FOUND"):
        module.function("nobody")
    context.close()
    assert (fake.violations, fake.leaks) == ([], {})


def test_code_that_is_refused_says_what_the_compiler_said() -> None:
    """The driver's compiler has the last word in the error."""
    with pytest.raises(CudaError, match=r"CUDA_ERROR_INVALID_PTX .*: ptxas .*Unexpected token"):
        Module(opened(FakeCuda()), "nonsense")


def test_the_limit_counts_what_is_held() -> None:
    """Memory is refused past the limit, before the driver is asked, and free again afterwards."""
    fake = FakeCuda()
    memory = CardMemory(opened(fake), limit_bytes=1000)
    first = memory.allocate(600)
    with pytest.raises(CudaMemoryError, match=r"401 bytes more .* 600 of 1000 bytes are used"):
        memory.allocate(401)
    assert fake.calls.count("cuMemAlloc") == 1
    assert memory.allocate(400).num_bytes == 400
    gc.collect()
    assert memory.used_bytes == 600
    first.close()
    first.close()
    assert memory.used_bytes == 0
    assert (fake.violations, fake.device_memory) == ([], {})


def test_a_full_card_leaves_everything_as_it_was() -> None:
    """The driver's own refusal is of the kind for memory, and nothing is counted."""
    memory = CardMemory(opened(FakeCuda(FakeCard(free_bytes=1000))))
    held = memory.allocate(900)
    with pytest.raises(CudaMemoryError, match="cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY"):
        memory.allocate(101)
    assert memory.used_bytes == 900
    held.close()
    assert memory.allocate(1000).num_bytes == 1000


@pytest.mark.parametrize("card", [FakeCard(), FakeCard(attributes={cards.INTEGRATED: 1})])
def test_a_driver_that_gives_other_memory_is_asked_before(
    card: FakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Windows, and where the memory is the computer's, some of what is free stays free."""
    if not card.attributes:
        monkeypatch.setattr(cuda_memory, "WSL_DEVICE", os.devnull)
    roomy = replace(card, free_bytes=cuda_memory.SPARED_BYTES + 1000)
    fake = FakeCuda(roomy)
    memory = CardMemory(opened(fake))
    held = memory.allocate(900)
    assert memory.room_bytes == 100
    with pytest.raises(CudaMemoryError, match="101 bytes more do not fit the card: 100 are free"):
        memory.allocate(101)
    assert fake.calls.count("cuMemAlloc") == 1
    held.close()
    assert memory.room_bytes == 1000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks and is asked so")
def test_pinned_pages_are_not_shared_with_children() -> None:
    """A child finds zeros in whole pages that are pinned, and what lies beside them as it was."""
    array = reserve(3 * mmap.PAGESIZE)
    array[:] = 7
    pinned = RegisteredMemory(opened(FakeCuda()), array[: 2 * mmap.PAGESIZE + 100])
    child = os.fork()
    if not child:
        is_right = not array[: 2 * mmap.PAGESIZE].any() and array[2 * mmap.PAGESIZE :].all()
        os._exit(0 if is_right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (array == 7).all()
    pinned.close()


def test_a_driver_that_tells_no_clock_is_no_obstacle() -> None:
    """What only the bandwidth is computed from may be missing; what decides may not."""
    fake = FakeCuda()
    fake.refused_attributes = {cards.MEMORY_CLOCK_KHZ}
    (card,) = cards.list_cards(Driver(fake))
    assert (card.bytes_per_second, card.obstacle) == (0, None)
    fake.refused_attributes = {cards.MULTIPROCESSORS}
    with pytest.raises(CudaError, match="cuDeviceGetAttribute: CUDA_ERROR_INVALID_VALUE"):
        cards.list_cards(Driver(fake))


def test_everything_is_used() -> None:
    """Each function of the table is called, but those for machine code and for errors."""
    rest = {"cuGetErrorName", "cuGetErrorString"}
    assert FUNCTIONS.keys() - set(calls_of_everything()) == rest


@pytest.mark.parametrize("code", [INVALID_VALUE, OUT_OF_MEMORY, ILLEGAL_ADDRESS, UNKNOWN])
def test_any_call_may_fail(code: int) -> None:
    """Whichever call fails: our error with its code, and what could be given back is."""
    names = calls_of_everything()
    doubles = []
    for number, name in enumerate(names):
        fake = FakeCuda()
        fake.fail(name, code, at=names[: number + 1].count(name))
        context = None
        try:
            context = opened(fake)
            everything(context)
        except CudaError as error:
            assert error.code == code
            assert str(error).startswith("cu")
        if context is not None:
            context.close()
        del context
        doubles.append(fake)
    gc.collect()
    assert [fake.violations for fake in doubles] == [[]] * len(names)
    # What the driver would not take back cannot be given back.
    assert max(sum(fake.leaks.values()) for fake in doubles) <= 1


def calls_of_everything() -> list[str]:
    """The calls of ``everything`` by name, from the first to the last."""
    fake = FakeCuda()
    context = opened(fake)
    everything(context)
    context.close()
    assert (fake.violations, fake.leaks) == ([], {})
    return fake.calls


def test_a_lost_card_fails_at_once_and_closes_quietly() -> None:
    """After a fault every call has the error of a lost card, and closing raises nothing."""
    fake = FakeCuda()
    context = opened(fake)
    memory, stream = CardMemory(context), Stream(context)
    part = memory.allocate(10)
    fake.lose(LAUNCH_TIMEOUT)
    calls: list[Callable[[], object]] = [
        stream.synchronize,
        stream.is_idle,
        lambda: memory.allocate(5),
        lambda: stream.fill(part.address, 0, 10),
        context.memory_bytes,
    ]
    for call in calls:
        with pytest.raises(CudaLostError, match="CUDA_ERROR_LAUNCH_TIMEOUT"):
            call()
    part.close()
    context.close()
    assert memory.used_bytes == 0


def test_a_closed_context_is_refused() -> None:
    """Its resources are released with it, the latest first, and can be closed again."""
    fake = FakeCuda()
    context = opened(fake)
    part, stream = CardMemory(context).allocate(10), Stream(context)
    context.close()
    context.close()
    released = [name for name in fake.calls if name.endswith(("Free", "Destroy", "Release"))]
    assert released == ["cuStreamDestroy", "cuMemFree", "cuDevicePrimaryCtxRelease"]
    assert not (part.is_open or stream.is_open or context.is_open)
    part.close()
    with pytest.raises(CudaError, match="the context of card 0 is closed"):
        stream.synchronize()
    assert fake.violations == []


def test_another_librarys_context_is_put_back() -> None:
    """Whatever was current before a call is current after it, also after one that fails."""
    fake = FakeCuda(FakeCard("A"), FakeCard("B"))
    driver = Driver(fake)
    own = Context(driver, cards.choose_card(driver, 0))
    other = Context(driver, cards.choose_card(driver, 1))
    driver.call("cuCtxPushCurrent", other.handle)
    own.memory_bytes()
    fake.fail("cuMemGetInfo", INVALID_VALUE)
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_VALUE"):
        own.memory_bytes()
    current = ctypes.c_void_p()
    driver.call("cuCtxPopCurrent", current)
    assert current.value == other.handle


def test_memory_may_be_freed_by_any_thread() -> None:
    """What nobody holds any more is freed once, by whichever thread notices."""
    fake = FakeCuda()
    memory = CardMemory(opened(fake))

    def work() -> None:
        for _ in range(50):
            memory.allocate(100)
            gc.collect(0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert (memory.used_bytes, fake.violations, fake.device_memory) == (0, [], {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told() -> None:
    """The child asks the driver nothing: an error for calls, silence for what it lets go."""
    fake = FakeCuda()
    context = opened(fake)
    memory = CardMemory(context)
    part = memory.allocate(10)
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with memory._lock:
            is_held.set()
            may_go.wait(60)

    # Another thread is at the memory when the process is forked.
    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        before = len(fake.calls)
        told = False
        try:
            context.memory_bytes()
        except CudaError as error:
            told = "forked" in str(error)
        part.close()
        context.close()
        os._exit(0 if told and len(fake.calls) == before else 1)
    may_go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.any(context.memory_bytes())
    context.close()
    assert fake.leaks == {}
