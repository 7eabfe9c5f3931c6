"""Messages that are looked for at their usual time: none is lost, and nothing stays changed."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from edgellama.cluster.connections.expected_message import LEAST_WAITS, ExpectedMessage
from edgellama.cluster.connections.free_core import REST_WAITS, FreeCore

is_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux moves threads so")
TIMEOUT_S = 30.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    one, other = socket.socketpair()
    one.settimeout(TIMEOUT_S)
    with one, other:
        yield one, other


def foretold(usual_s: float) -> ExpectedMessage:
    """A message that took so long the last times."""
    expected = ExpectedMessage()
    expected._waits.extend([usual_s] * LEAST_WAITS)
    return expected


def test_what_comes_in_time_is_read(ends: tuple[socket.socket, socket.socket]) -> None:
    """After what was to be done meanwhile, or before it where it is early."""
    here, there = ends
    done: list[str] = []

    def meanwhile() -> None:
        done.append("ready")
        there.sendall(b"answer")

    expected = foretold(0.003)
    while not (found := expected.read(here, meanwhile)):
        expected = foretold(0.003)  # Where others have the core nobody looks.
    assert found == b"answer" and done[-1] == "ready"
    there.sendall(b"early")
    assert foretold(5.0).read(here, pytest.fail) == b"early"
    assert here.gettimeout() == TIMEOUT_S


def test_what_comes_late_is_not_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    """It is not waited for beyond its time, and still there; at first nothing is foretold."""
    here, there = ends
    assert ExpectedMessage().read(here, pytest.fail) == b""
    assert foretold(0.002).read(here, lambda: None) == b""
    threading.Timer(0.01, there.sendall, [b"late"]).start()
    assert here.recv(100) == b"late"
    expected = ExpectedMessage()
    for _ in range(LEAST_WAITS):
        expected.read(here, pytest.fail)
        time.sleep(0.001)
        expected.note()
    there.close()
    assert expected.read(here, lambda: None) == b""


def test_an_interruption_leaves_nothing_changed(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Ctrl-C comes at any time: the connection waits as before, the thread may run anywhere."""
    here, _ = ends
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else set()

    def interrupt() -> None:
        raise KeyboardInterrupt

    expected = foretold(0.002)
    expected._core._avoided = frozenset([min(allowed, default=0)])
    expected._core.is_free = lambda: True  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        expected.read(here, interrupt)
    assert here.gettimeout() == TIMEOUT_S
    assert sys.platform != "linux" or os.sched_getaffinity(0) == allowed


@is_linux
def test_a_thread_keeps_off_the_core_of_others() -> None:
    """It goes to another one, from the next time on before it sleeps, and is free afterwards."""
    allowed = os.sched_getaffinity(0)
    core = FreeCore()
    if len(allowed) > 1:
        assert core.find() and len(os.sched_getaffinity(0)) == len(allowed) - 1
        core.leave()
        assert os.sched_getaffinity(0) == allowed
        core.enter()
        assert len(os.sched_getaffinity(0)) == len(allowed) - 1
        core.leave()
    assert os.sched_getaffinity(0) == allowed
    # There, too, is somebody: nothing is tried for a while.
    assert not core.find()
    assert not any(core.may_be_tried for _ in range(REST_WAITS - 1)) and core.may_be_tried


@is_linux
def test_a_thread_of_one_core_stays_there() -> None:
    """Where it may run nowhere else it looks for nothing, and its core is not taken away."""
    found: list[bool] = []

    def only_here() -> None:
        core = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        found.append(FreeCore().find())
        found.append(os.sched_getaffinity(0) == {core})

    thread = threading.Thread(target=only_here)
    thread.start()
    thread.join()
    assert found == [False, True]
