"""Threads that need the same code at the same time: it is made once, and all hear how far it is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
from harness.patience import PATIENCE_S, until

from edgellama.kernels_cpu.compiling import compile_turn
from edgellama.kernels_cpu.compiling.code_folder import read_or_make
from edgellama.quant.errors import KernelError
from edgellama.quant.progress import Progress

NAMES = ("a", "b", "c")
KEY = "some-tier"
Make: TypeAlias = Callable[[Sequence[str], Path, Progress], None]

pytestmark = pytest.mark.usefixtures("empty_cache")


def read(folder: Path, name: str) -> str | None:
    """What was made, if it was."""
    return (folder / name).read_text() if (folder / name).exists() else None


def put(folder: Path, name: str) -> None:
    """Make one, whole at once, as compilers do: others may read it at any time."""
    beside = folder / f"{name}.{threading.get_ident()}"
    beside.write_text(f"code of {name}")
    beside.replace(folder / name)


def write(names: Sequence[str], folder: Path, report: Progress) -> None:
    """Make all."""
    report(0, len(names))
    for number, name in enumerate(names, 1):
        put(folder, name)
        report(number, len(names))


class Callers:
    """Threads that want the same, and what each was told, has made, and got."""

    def __init__(self, count: int, make: Make, refuse: Callable[[int, int], bool]) -> None:
        """``make`` makes for the first; the others ``write``. ``refuse``: by caller and progress,
        whether its function raises."""
        self.heard: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        self.made: list[tuple[str, ...]] = []
        self.errors: dict[int, BaseException] = {}
        self._make, self._refuse = make, refuse
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]

    def run(self) -> None:
        """Begin the others when the first is at work, and wait for all."""
        for number, thread in enumerate(self._threads):
            thread.start()
            until(lambda number=number: self.heard[number])  # type: ignore[misc]
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def wait_for(self, done: int) -> None:
        """Until all have heard of so much."""
        until(lambda: all(told and told[-1][0] >= done for told in self.heard))

    def _run(self, number: int) -> None:
        def hear(done: int, total: int) -> None:
            self.heard[number].append((done, total))
            if self._refuse(number, done):
                raise InterruptedError

        def make(names: Sequence[str], folder: Path, report: Progress) -> None:
            self.made.append(tuple(names))
            (write if number else self._make)(names, folder, report)

        try:
            found = read_or_make(NAMES, KEY, read, make, hear)
            assert found == {name: f"code of {name}" for name in NAMES}
        except BaseException as error:
            self.errors[number] = error


def test_one_makes_and_all_hear() -> None:
    """Those who wait report what is made as their own progress, and make nothing."""

    def make(names: Sequence[str], folder: Path, report: Progress) -> None:
        report(0, len(names))
        for number, name in enumerate(names, 1):
            callers.wait_for(number - 1)
            put(folder, name)
            report(number, len(names))

    callers = Callers(3, make, lambda number, done: False)
    callers.run()
    assert not callers.errors and callers.made == [NAMES]
    assert callers.heard == [[(0, 3), (1, 3), (2, 3), (3, 3)]] * 3


@pytest.mark.parametrize("error", [InterruptedError(), KernelError("no compiler")])
def test_if_it_fails_another_goes_on(error: Exception) -> None:
    """One of those who wait makes what is missing when the first is cancelled, or cannot."""

    def make(names: Sequence[str], folder: Path, report: Progress) -> None:
        report(0, len(names))
        callers.wait_for(0)
        put(folder, names[0])
        raise error

    callers = Callers(3, make, lambda number, done: False)
    callers.run()
    assert callers.errors == {0: error}
    assert callers.made == [NAMES, NAMES[1:]]
    assert all(told[-1] == (3, 3) and told == sorted(told) for told in callers.heard[1:])


def test_who_waits_may_leave() -> None:
    """The function of one who waits raises what ends its call, and nobody else's."""

    def make(names: Sequence[str], folder: Path, report: Progress) -> None:
        report(0, len(names))
        callers.wait_for(0)
        until(lambda: 1 in callers.errors)
        write(names, folder, report)

    callers = Callers(3, make, lambda number, done: number == 1)
    callers.run()
    assert isinstance(callers.errors.pop(1), InterruptedError) and not callers.errors
    assert callers.made == [NAMES]


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_a_lock_that_nobody_gives_back(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a program that was stopped goes on beside it after a while."""
    import fcntl

    monkeypatch.setattr(compile_turn, "PATIENCE_SECONDS", 0.2)
    folder = empty_cache / "kernels" / KEY
    folder.mkdir(parents=True)
    with (folder / "compiling.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(read_or_make(NAMES, KEY, read, write)) == 3


def test_folders_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system has no locks, or lets none be made, everything is made all the same."""
    monkeypatch.setattr(compile_turn, "_open_lock", lambda path: None)
    assert len(read_or_make(NAMES, KEY, read, write)) == 3
