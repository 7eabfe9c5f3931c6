"""Many threads start, cancel, drop and close generations, on shared engines and on their own.

Whatever the others do, each text that is not cut short must be what one thread alone gets.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgellama import EdgellamaError, Llama, Session
from edgellama.generation.sessions.stream import Stream
from stress import held

NUM_HAMMERS = 6
GREEDY: Any = {"temperature": 0, "max_tokens": 6}
PROMPTS = ("once upon a time ", "once upon a day ", "once ", "something else entirely ") * 2
PROMPTS = tuple(prompt * (1 + index * 3) for index, prompt in enumerate(PROMPTS))
"""Some share a beginning; the longest takes several chunks of a prefill."""
MAX_GROWTH_BYTES = 24_000_000
"""What the allocator may keep of memory that was needed by all threads at once."""


class Hammer:
    """One thread's actions on engines that all threads share; ``expected`` texts by prompt."""

    def __init__(
        self, path: Path, engines: list[Llama], expected: dict[str, tuple[int, ...]], seed: int
    ) -> None:
        self._path, self._engines, self._expected = path, engines, expected
        self._random = random.Random(seed)
        self.num_done = 0

    def run_until(self, deadline: float) -> None:
        """Act at random until the clock says ``deadline``."""
        actions: tuple[Callable[[], None], ...] = (
            self.end_normally, self.cancel_from_outside, self.close_early, self.drop,
            self.drop_in_a_cycle, self.truncate, self.chat, self.close_the_session,
            self.close_the_engine,
        )  # fmt: skip
        self._session = self._llama().session()
        while time.monotonic() < deadline:
            self._random.choice(actions)()
            self.num_done += 1
        self._session.close()

    def end_normally(self) -> None:
        """A whole text in a session of its own."""
        with self._llama().session() as session:
            self._check(session)

    def truncate(self) -> None:
        """A prompt in the session that this thread keeps: it drops what does not fit."""
        if self._random.random() < 0.2:
            self._session.close()
            self._session = self._llama().session()
        self._check(self._session)

    def cancel_from_outside(self) -> None:
        """Another thread cancels at any moment; the session goes on to work."""
        with self._llama().session() as session:
            stream = self._start(session)
            timer = threading.Timer(self._random.random() * 0.02, stream.cancel)
            timer.start()
            assert stream.wait().finish_reason in ("cancelled", "length", "stop")
            timer.join()
            self._check(session)

    def close_early(self) -> None:
        """A stream is closed after a few pieces."""
        with self._llama().session() as session:
            with self._start(session) as stream:
                self._take_some(stream)
            assert stream.ended and not session.busy
            self._check(session)

    def drop(self) -> None:
        """A stream that nobody refers to ends by itself."""
        with self._llama().session() as session:
            self._take_some(self._start(session))
            assert not session.busy
            self._check(session)

    def drop_in_a_cycle(self) -> None:
        """As does one that the garbage collector finds."""
        stream = self._llama().stream("once ", max_tokens=50)
        self._take_some(stream)
        circle: list[object] = [stream]
        circle.append(circle)
        del stream, circle
        gc.collect(1)

    def chat(self) -> None:
        """Two turns, the second one twice, the last one cut short."""
        with self._llama().chat("Be brief.", **GREEDY) as chat:
            first = chat.send("hello").tokens
            assert chat.regenerate().wait().tokens == first
            if first:
                with chat.stream("go on", max_tokens=50) as stream:
                    self._take_some(stream)

    def close_the_session(self) -> None:
        """A session is closed by another thread while it makes a text."""
        session = self._llama().session()
        stream = self._start(session)
        timer = threading.Timer(self._random.random() * 0.02, session.close)
        timer.start()
        assert stream.wait().finish_reason in ("cancelled", "length", "stop")
        timer.join()
        assert not session.busy

    def close_the_engine(self) -> None:
        """A model is loaded and closed by another thread while it is in use."""
        llama = Llama(self._path, num_threads=self._random.choice((1, 2, 3)), exact=True)
        timer = threading.Timer(self._random.random() * 0.02, llama.close)
        timer.start()
        try:
            while True:
                llama.generate(self._random.choice(PROMPTS), max_tokens=20)
        except EdgellamaError as error:
            assert "closed" in str(error), error
        timer.join()

    def _llama(self) -> Llama:
        return self._random.choice(self._engines)

    def _start(self, session: Session) -> Stream:
        return session.stream(self._random.choice(PROMPTS), max_tokens=30, seed=1)

    def _take_some(self, stream: Stream) -> None:
        for _ in range(self._random.randint(0, 4)):
            next(stream, None)

    def _check(self, session: Session) -> None:
        """The session makes the text that it must."""
        prompt = self._random.choice(PROMPTS)
        assert session.generate(prompt, **GREEDY).tokens == self._expected[prompt], prompt


def hammer(path: Path, seconds: float, seed: int) -> None:
    """Run all hammers; AssertionError for a wrong text or for anything that is not given back."""
    with Llama(path, exact=True) as llama:
        # What the process keeps from its first model on is no leak.
        llama.generate(PROMPTS[0], **GREEDY)
    before = held.num_threads(), held.num_files()
    engines = [Llama(path, num_threads=number, kv_type="f32", exact=True) for number in (2, 3)]
    expected = {prompt: engines[0].generate(prompt, **GREEDY).tokens for prompt in PROMPTS}
    errors: list[BaseException] = []
    hammers = [Hammer(path, engines, expected, seed + number) for number in range(NUM_HAMMERS)]

    def run(one: Hammer) -> None:
        try:
            one.run_until(deadline)
        except BaseException as error:
            errors.append(error)

    resident = 0
    for part in (1, 2):
        deadline = time.monotonic() + seconds / 2
        threads = [threading.Thread(target=run, args=(one,)) for one in hammers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        gc.collect()
        growth, resident = held.resident_bytes() - resident, held.resident_bytes()
        print(f"part {part}: {sum(one.num_done for one in hammers)} actions, {resident} bytes")
    assert growth < MAX_GROWTH_BYTES, f"{growth} bytes more after the second half"
    for llama in engines:
        llama.close()
    del hammers, engines, llama
    for measure, number in zip((held.num_threads, held.num_files), before, strict=True):
        held.check_back(measure, number)
