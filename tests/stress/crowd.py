"""More threads than cores while other processes want the cores, too: slower, but no stall."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from edgellama import Llama

NUM_TOKENS = 300
BUSY = "while True: pass"
MAX_RATIO = 4.0
"""How much longer many threads may take than one takes beside the same busy processes."""
SLACK_S = 3.0
"""For the scheduler, which gives a process of many threads its turn in slices of milliseconds."""


def crowd(path: Path, seconds: float, seed: int) -> None:
    """AssertionError if a text takes much longer on many threads than on one, or differs."""
    num_cores = os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(num_cores)]
    try:
        alone_s, expected = fastest(path, 1, seed)
        for num_threads in (2 * num_cores, 8 * num_cores):
            taken_s, tokens = fastest(path, num_threads, seed)
            print(f"1 thread: {alone_s:.2f} s, {num_threads} threads: {taken_s:.2f} s")
            assert tokens == expected
            assert taken_s < MAX_RATIO * alone_s + SLACK_S
    finally:
        for process in busy:
            process.kill()
            process.wait()


def fastest(path: Path, num_threads: int, seed: int) -> tuple[float, tuple[int, ...]]:
    """Seconds of a text, the better of two runs, and its tokens."""
    times = []
    with Llama(path, num_threads=num_threads) as llama:
        for _ in range(2):
            started = perf_counter()
            text = llama.generate("once upon a time " * 10, max_tokens=NUM_TOKENS, seed=seed)
            times.append(perf_counter() - started)
    return min(times), text.tokens
