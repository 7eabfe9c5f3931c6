"""How long a user waits where nothing should be noticed, beside the limits that the project keeps.

``python benchmarks/latencies.py [MODEL]``: help, opening a file, first token ids, what a token
costs around the engine, and how soon Ctrl-C and a cancellation are obeyed. POSIX only. The exit
code is 1 if a limit is exceeded, which a busy machine can do, too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgellama.engine.engine import Engine
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.sessions.session import Session
from edgellama.models.pulling import pull
from edgellama.models.well_known import STARTER_MODEL
from edgellama.quant.errors import GenerationCancelled
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

COMMAND = (sys.executable, "-m", "edgellama")
TEXT = "The quick brown fox jumps over the lazy dog. "
NUM_TOKENS = 500
LONG_TOKENS = 8192


class InstantEngine:
    """An engine whose steps take no time: after every token ``next_id`` is the likeliest."""

    def __init__(self, engine: Engine, next_id: int) -> None:
        self._engine = engine
        self._logits = np.zeros((1, engine.config.vocab_size), np.float32)
        self._logits[0, next_id] = 1.0

    def forward(self, tokens: Sequence[int], cache: Any, **_: Any) -> Any:
        """The logits at once."""
        cache.prepare(len(tokens))
        cache.append(tokens)
        return self._logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def help_s(_: Path) -> float:
    """Processor time of ``edgellama --help``, Python's own start included; the best of seven."""
    return min(_processor_s([*COMMAND, "--help"]) for _ in range(7))


def _processor_s(command: Sequence[str]) -> float:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def open_s(path: Path) -> float:
    """Opening the file, its header parsed and checked; the best of three."""
    return _best(3, lambda: GGUFFile(path).close())


def first_ids_s(path: Path) -> float:
    """From the open file to the ids of a text with a word that must be put together."""
    with GGUFFile(path) as file:
        text = "unbelievableness of xyzzyplugh"
        return _best(3, lambda: load_tokenizer(file.metadata).encode(text))


def token_overhead_s(path: Path) -> float:
    """What a token costs around the engine's step, greedy, with a stop string."""
    with GGUFFile(path) as file, Engine(file) as engine:
        tokenizer = load_tokenizer(file.metadata)
        instant: Any = InstantEngine(engine, tokenizer.encode(TEXT)[-2])
        options: Any = {"max_tokens": NUM_TOKENS, "stop": ["\n\n"], "temperature": 0}
        session = Session(instant, tokenizer)
        return _best(5, lambda: session.stream(TEXT, **options).wait()) / NUM_TOKENS


def cancellation_s(path: Path) -> float:
    """From a cancellation by another thread, amid a chunk of a long prompt, to its end."""
    token, cancelled_at = CancelToken(), [0.0]

    def cancel() -> None:
        time.sleep(0.05)
        cancelled_at[0] = time.perf_counter()
        token.cancel()

    def progress(done: int, total: int) -> None:
        if done == engine.step_tokens:
            threading.Thread(target=cancel).start()

    with GGUFFile(path) as file, Engine(file) as engine:
        tokens = [1] * min(LONG_TOKENS, engine.config.context_length)
        try:
            engine.forward(tokens, engine.new_cache(), cancelled=token, progress=progress)
        except GenerationCancelled:
            return time.perf_counter() - cancelled_at[0]
    raise RuntimeError("the prompt was read before it could be cancelled; take a larger model")


def many_threads_s(path: Path) -> float:
    """Twenty decode steps with four times as many threads as cores."""
    with GGUFFile(path) as file, Engine(file, num_threads=4 * (os.cpu_count() or 1)) as engine:
        cache = engine.new_cache(64)
        engine.forward([1], cache)
        return _best(1, lambda: [engine.forward([1], cache) for _ in range(20)])


def interrupted_generate_s(path: Path) -> float:
    """Ctrl-C while ``generate`` reads a long prompt."""
    with tempfile.TemporaryDirectory() as folder:
        prompt = Path(folder) / "long.txt"
        prompt.write_text(TEXT * 800)
        return _interrupted_s(["generate", str(path), "-f", str(prompt)], lambda: time.sleep(1.5))


def interrupted_embed_s(path: Path) -> float:
    """Ctrl-C while ``embed`` reads many texts."""
    with tempfile.TemporaryDirectory() as folder:
        texts, output = Path(folder) / "texts.txt", Path(folder) / "vectors.npy"
        texts.write_text(f"{TEXT * 40}\n" * 2000)
        arguments = ["embed", str(path), "-f", str(texts), "-o", str(output)]
        return _interrupted_s(arguments, lambda: time.sleep(2.0))


def interrupted_imatrix_s(path: Path) -> float:
    """Ctrl-C while ``imatrix`` reads its text."""
    with tempfile.TemporaryDirectory() as folder:
        text, output = Path(folder) / "text.txt", Path(folder) / "i.gguf"
        text.write_text(TEXT * 5000)
        arguments = ["imatrix", str(path), "-f", str(text), "-o", str(output)]
        return _interrupted_s(arguments, lambda: time.sleep(2.0))


def interrupted_convert_s(path: Path) -> float:
    """Ctrl-C as soon as ``convert`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.gguf"
        journal = Path(f"{output}.partial.journal")

        def wait() -> None:
            while not journal.exists():
                time.sleep(0.005)

        return _interrupted_s(["convert", str(path), str(output), "--type", "q4_k_m"], wait)


def _interrupted_s(arguments: Sequence[str], wait: Callable[[], None]) -> float:
    """From Ctrl-C, sent after ``wait``, to the end of a command."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*COMMAND, *arguments], stdout=quiet, stderr=quiet) as process:
        wait()
        started = time.perf_counter()
        process.send_signal(signal.SIGINT)
        exit_code = process.wait()
    if exit_code != 130:
        raise RuntimeError(f"{arguments[0]} ended with {exit_code} before it was interrupted")
    return time.perf_counter() - started


def _best(times: int, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


LIMITS: dict[Callable[[Path], float], float] = {
    help_s: 0.15,
    open_s: 0.3,
    first_ids_s: 0.35,
    token_overhead_s: 60e-6,
    cancellation_s: 0.5,
    many_threads_s: 5.0,
    interrupted_generate_s: 3.0,
    interrupted_embed_s: 3.0,
    interrupted_imatrix_s: 3.0,
    interrupted_convert_s: 2.0,
}
"""What is measured, and the most seconds that it may take, for any vocabulary and a 1B model."""


def rows(path: Path) -> Iterator[tuple[str, bool]]:
    """A line of the table for each measurement, and whether it kept its limit."""
    for measure, limit_s in LIMITS.items():
        seconds = measure(path)
        text = (measure.__doc__ or "").splitlines()[0].rstrip(".")
        is_kept = seconds <= limit_s
        mark = "" if is_kept else " **too long**"
        yield f"| {text} | {_written(seconds)}{mark} | {_written(limit_s)} |", is_kept


def _written(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds:.3f} s"


def main() -> None:
    """Print the table; exit code 1 if a limit was exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="GGUF file  [default: the starter]")
    path: Path = parser.parse_args().model or pull(STARTER_MODEL)
    print("| | measured | limit |\n|---|---|---|")
    all_kept = True
    for line, is_kept in rows(path):
        print(line, flush=True)
        all_kept &= is_kept
    sys.exit(0 if all_kept else 1)


if __name__ == "__main__":
    main()
