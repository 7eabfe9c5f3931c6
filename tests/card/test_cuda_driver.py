"""The driver's library and the cards that it tells of, against a double: no card is behind it."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path

import pytest
from doubles.fake_cuda import FakeCard, FakeCuda
from doubles.fake_library import ILLEGAL_ADDRESS, UNKNOWN
from harness.cuda import opened

from edgellama.cuda import cards
from edgellama.cuda.advice import NOT_INITIALIZED, STUB_LIBRARY
from edgellama.cuda.driver import (
    FUNCTIONS,
    LIBRARIES,
    NO_CARD,
    NO_DEVICE,
    OUT_OF_MEMORY,
    Driver,
)
from edgellama.cuda.machine import describe_cards
from edgellama.cuda.streams import Stream
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
