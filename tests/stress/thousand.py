"""A thousand sessions and hundreds of engines, one after the other, leave nothing behind.

In the short run a quarter of the sessions, and ten engines.
"""

from __future__ import annotations

import gc
from pathlib import Path

from edgellama import Llama
from stress import held

SHORT_S = 30.0
MAX_GROWTH_BYTES = 3_000_000
"""Kilobytes a session, for the allocator; one that leaks its cache would cost hundreds."""


def thousand(path: Path, seconds: float, seed: int) -> None:
    """AssertionError if memory, threads or files have grown."""
    num_sessions, num_engines = (250, 10) if seconds < SHORT_S else (1000, 200)
    use_engines(path, 3)
    before = held.num_threads(), held.num_files()
    with Llama(path, num_threads=2, context_length=2048) as llama:
        use_sessions(llama, num_sessions // 5)
        resident = held.resident_bytes()
        use_sessions(llama, num_sessions)
        check_growth("sessions", resident)
    del llama
    use_engines(path, num_engines // 5)
    resident = held.resident_bytes()
    use_engines(path, num_engines)
    check_growth("engines", resident)
    for measure, number in zip((held.num_threads, held.num_files), before, strict=True):
        held.check_back(measure, number)


def check_growth(what: str, before: int) -> None:
    """Anonymous memory is what it was, but for a little."""
    gc.collect()
    growth = held.resident_bytes() - before
    print(f"{what}: {growth} bytes more")
    assert growth < MAX_GROWTH_BYTES, f"{what} leave {growth} bytes behind"


def use_sessions(llama: Llama, count: int) -> None:
    """Sessions of all kinds: ended, cancelled, dropped, chats."""
    for number in range(count):
        prompt = f"number {number} " * (1 + number % 8)
        if number % 3 == 0:
            with llama.session() as session, session.stream(prompt, max_tokens=3) as stream:
                next(stream)
        elif number % 3 == 1:
            llama.stream(prompt, max_tokens=3, temperature=0).wait()
        else:
            with llama.chat(max_tokens=2, temperature=0) as chat:
                chat.send(prompt)


def use_engines(path: Path, count: int) -> None:
    """Engines that are loaded, used and closed or forgotten."""
    for number in range(count):
        llama = Llama(path, num_threads=1 + number % 3)
        llama.generate("once", max_tokens=2)
        if number % 2:
            llama.close()
