"""Ctrl-C at any moment: in a step, in a stream, while a session or a model is closed.

Signals come to the main thread, as they do to a user's; another thread works on the same engine
all the while and must neither wait for ever nor get another text.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edgellama import Llama
from stress import held

GREEDY: Any = {"temperature": 0, "max_tokens": 5}
PROMPT = "once upon a time there was a king "


def raise_interrupt(*_: object) -> None:
    """What Python's own handler of Ctrl-C does."""
    raise KeyboardInterrupt


def interrupted_after(seconds: float, work: Callable[[], object]) -> bool:
    """Whether Ctrl-C, which comes after ``seconds``, came before the end of the work."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False


def close_interrupted(path: Path, seconds: float) -> None:
    """A model of which neither a text nor the close that follows needs to come to its end."""
    llama = Llama(path, num_threads=3)

    def use() -> None:
        with llama:
            llama.generate(PROMPT, **GREEDY)

    interrupted_after(seconds, use)
    llama.close()


class Neighbour:
    """A thread that makes the same text on an engine again and again; a context manager."""

    def __init__(self, llama: Llama, expected: tuple[int, ...]) -> None:
        self._llama, self._expected = llama, expected
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.num_right = 0
        self.num_wrong = 0

    def _run(self) -> None:
        while not self._ending.is_set():
            is_right = self._llama.generate(PROMPT, **GREEDY).tokens == self._expected
            self.num_right += is_right
            self.num_wrong += not is_right

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._thread.join()


def interrupt(path: Path, seconds: float, seed: int) -> None:
    """Interrupt again and again; AssertionError if anything is left taken, wrong or running."""
    signal.signal(signal.SIGALRM, raise_interrupt)
    close_interrupted(path, 60.0)
    before = held.num_threads(), held.num_files()
    interrupt_texts(path, seconds, random.Random(seed))
    close_from_a_handler(path)
    for measure, number in zip((held.num_threads, held.num_files), before, strict=True):
        held.check_back(measure, number)


def interrupt_texts(path: Path, seconds: float, draw: random.Random) -> None:
    """Interrupt texts, closing sessions and closing models while a neighbour works."""
    num_interrupted = num_done = 0
    with Llama(path, num_threads=2, exact=True) as llama:
        expected = llama.generate(PROMPT, **GREEDY).tokens
        with Neighbour(llama, expected) as neighbour:
            session = llama.session()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                num_done += 1
                text = partial(session.generate, PROMPT[: num_done % 30 + 1] * 3)
                num_interrupted += interrupted_after(draw.uniform(0, 0.01), text)
                assert session.generate(PROMPT, **GREEDY).tokens == expected, num_done
                if num_done % 7 == 0:
                    interrupted_after(draw.uniform(0, 0.0002), session.close)
                    session.close()
                    session = llama.session()
                if num_done % 40 == 0:
                    close_interrupted(path, draw.uniform(0, 0.02))
    print(f"{num_interrupted} of {num_done} texts interrupted, {neighbour.num_right} beside them")
    assert num_interrupted > num_done // 4 and neighbour.num_right and not neighbour.num_wrong


def close_from_a_handler(path: Path) -> None:
    """A signal's handler may close the model that the signal interrupted; the text ends."""
    for number in range(20):
        llama = Llama(path, num_threads=2)

        def close(*_: object, llama: Llama = llama) -> None:
            llama.close()

        signal.signal(signal.SIGALRM, close)
        stream = llama.stream(PROMPT, max_tokens=500, seed=number)
        signal.setitimer(signal.ITIMER_REAL, 0.002 * (number + 1))
        assert stream.wait().finish_reason in ("cancelled", "stop", "length")
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        llama.close()
