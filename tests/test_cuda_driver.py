"""The driver's calls against a test double that records and checks them: no card is behind it."""

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
from pathlib import Path

import numpy as np
import pytest
from cuda_harness import PTX, everything, opened
from fake_cuda import LAUNCH_TIMEOUT, FakeCard, FakeCuda
from fake_library import ILLEGAL_ADDRESS, INVALID_VALUE, UNKNOWN
from fake_modules import Launch
from hypothesis import given
from hypothesis import strategies as st

from edgellama.cuda import cards
from edgellama.cuda import memory as cuda_memory
from edgellama.cuda.advice import NOT_INITIALIZED, STUB_LIBRARY
from edgellama.cuda.context import Context
from edgellama.cuda.driver import (
    FUNCTIONS,
    LIBRARIES,
    NO_CARD,
    NO_DEVICE,
    OUT_OF_MEMORY,
    Driver,
)
from edgellama.cuda.machine import describe_cards
from edgellama.cuda.memory import CardMemory, MappedMemory, RegisteredMemory
from edgellama.cuda.modules import Module
from edgellama.cuda.streams import Stream
from edgellama.engine.memory import reserve
from edgellama.quant.errors import (
    CudaError,
    CudaLostError,
    CudaMemoryError,
    InvalidOptionError,
)


def test_a_card_is_described() -> None:
    """What the driver tells of a card stands in its record."""
    fake = FakeCuda(FakeCard("Small", (7, 5), 4 << 30, attributes={cards.TIME_LIMIT: 1}))
    driver = Driver(fake)
    (card,) = cards.list_cards(driver)
    assert (card.name, card.capability, card.architecture) == ("Small", (7, 5), 75)
    assert card.total_bytes == 4 << 30
    assert card.uuid == bytes(range(16)).hex()
    assert (card.num_multiprocessors, card.has_time_limit, card.obstacle) == (24, True, None)
    assert card.bytes_per_second == pytest.approx(256e9, rel=1e-3)
    assert driver.version == 12040
    assert fake.calls[:2] == ["cuDriverGetVersion", "cuInit"]


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (FakeCard(capability=(6, 1)), "compute capability 6.1; needed: 7.5 or later"),
        (FakeCard(attributes={cards.COMPUTE_MODE: 2}), "its compute mode prohibits use"),
        (FakeCard(attributes={cards.MAPS_HOST_MEMORY: 0}), "it cannot read the computer's memory"),
    ],
)
def test_a_card_that_cannot_be_used_says_why(card: FakeCard, reason: str) -> None:
    """A card is passed over, or refused with the reason if it is asked for."""
    driver = Driver(FakeCuda(card, FakeCard("Good")))
    assert cards.choose_card(driver).name == "Good"
    with pytest.raises(CudaError, match=reason):
        cards.choose_card(driver, 0)
    with pytest.raises(CudaError, match=f"no card can be used: card 0 .*{reason}"):
        cards.choose_card(Driver(FakeCuda(card)))


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for the driver, two for each card: what it is, and whether it can be used."""
    loud = FakeCard("Display", attributes={cards.TIME_LIMIT: 1})
    fake = FakeCuda(loud, FakeCard("Old", (6, 1)))
    monkeypatch.setattr(Driver, "load", lambda: Driver(fake))
    assert list(describe_cards()) == [
        ("driver", "CUDA 12.4"),
        ("card 0", "Display, 4.3 GB, 256 GB/s, compute capability 8.9, 24 multiprocessors, drives "
                   "a display (kernels of seconds are ended)"),
        ("usable", "yes, 3.2 GB free"),
        ("card 1", "Old, 4.3 GB, 256 GB/s, compute capability 6.1, 24 multiprocessors"),
        ("usable", "no: compute capability 6.1; needed: 7.5 or later"),
    ]  # fmt: skip
    assert fake.leaks == {}
    fake.fail("cuDevicePrimaryCtxRetain", OUT_OF_MEMORY)
    assert ("usable", "no: cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY (out of memory)") in (
        describe_cards()
    )
    fake.cards = ()
    assert list(describe_cards())[1:] == [("card", f"none: {NO_CARD}")]
    monkeypatch.undo()
    monkeypatch.setattr("edgellama.cuda.driver.LIBRARIES", {})
    assert list(describe_cards()) == [
        ("card", f"none: no CUDA on {sys.platform}; supported: linux, win32")
    ]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_without_a_card_is_refused(index: int) -> None:
    """The error says which cards there are."""
    driver = Driver(FakeCuda(FakeCard("A"), FakeCard("B")))
    with pytest.raises(InvalidOptionError, match=rf"gpu {index}; there are: 0 \(A\), 1 \(B\)"):
        cards.choose_card(driver, index)
    assert cards.choose_card(driver, 1).index == 1


def test_an_old_driver_is_refused() -> None:
    """A driver that cannot compile our code, or lacks a function, says what to do."""
    with pytest.raises(CudaError, match=r"of CUDA 10\.2; needed: CUDA 11\.0 or later"):
        Driver(FakeCuda(version=10020))
    with pytest.raises(CudaError, match="no function cuMemHostGetDevicePointer_v2"):
        Driver(FakeCuda(missing=["cuMemHostGetDevicePointer"]))


def test_hidden_cards_are_no_failure_of_the_driver() -> None:
    """A driver that starts for no card says the same as one that shows none."""
    fake = FakeCuda()
    fake.fail("cuInit", NO_DEVICE)
    with pytest.raises(CudaError, match="the NVIDIA driver shows no card"):
        Driver(fake)
    fake.fail("cuInit", UNKNOWN)
    with pytest.raises(CudaLostError, match="cuInit: error 999; look whether /dev/nvidiactl"):
        Driver(fake)


def test_what_to_do_is_said_where_the_driver_does_not_say_it() -> None:
    """Also by a library that refuses its first call; what the driver explains is left as it is."""
    fake = FakeCuda()
    fake.fail("cuDriverGetVersion", STUB_LIBRARY)
    with pytest.raises(CudaError, match=r"cuDriverGetVersion: CUDA_ERROR_STUB_LIBRARY .*LD_LIB"):
        Driver(fake)
    fake.fail("cuInit", NOT_INITIALIZED)
    with pytest.raises(CudaError, match="forked from one that has used a graphics card"):
        Driver(fake)
    driver = Driver(fake)
    for name, code in (("cuStreamQuery", UNKNOWN), ("cuMemAlloc", OUT_OF_MEMORY)):
        assert ";" not in str(driver.error(code, name))


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
def test_the_library_of_the_system_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that can be loaded; where one is there and cannot, the error says why."""
    empty = tmp_path / "libcuda.so.1"
    empty.touch()
    there, damaged, loaded = set[str](), set[str](), list[str]()

    def load(name: str) -> object:
        if name not in there:
            return real(str(empty) if name in damaged else "libcuda-of-nobody.so")
        loaded.append(name)
        return FakeCuda()

    real = ctypes.CDLL
    wsl, usual, nix, _ = LIBRARIES["linux"]
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(CudaError, match=r"installed \(libcuda\.so\.1 cannot be loaded\)"):
        Driver.load()
    damaged.add(usual)
    with pytest.raises(CudaError, match=r"no NVIDIA driver is installed \(.*file too short\)"):
        Driver.load()
    for name in (nix, usual, wsl):
        there.add(name)
        Driver.load()
    assert loaded == [nix, usual, wsl]


def test_errors_are_in_the_drivers_words() -> None:
    """An error names the function, the driver's name of the code, and its text."""
    driver = Driver(FakeCuda())
    lost, full = driver.error(ILLEGAL_ADDRESS, "cuStreamQuery"), driver.error(2, "cuMemAlloc")
    text = "cuStreamQuery: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)"
    assert (str(lost), lost.code, type(lost)) == (text, ILLEGAL_ADDRESS, CudaLostError)
    assert type(full) is CudaMemoryError
    assert str(driver.error(12345, "cuInit")) == "cuInit: error 12345"


def test_every_address_can_be_called() -> None:
    """Machine code finds each function at its address."""
    fake = FakeCuda()
    driver = Driver(fake)
    assert len({driver.address(name) for name in FUNCTIONS}) == len(FUNCTIONS)
    context = opened(fake)
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
    codes = []

    def work() -> None:
        codes.append(prototype(driver.address("cuCtxPushCurrent"))(context.handle))
        codes.append(prototype(driver.address("cuStreamQuery"))(stream.handle))

    stream = Stream(context)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0, 0]
    assert fake.violations == []


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
