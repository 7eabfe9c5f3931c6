"""Stages in processes of their own, and faults of all kinds at any moment: no text is wrong."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster.lined_process import ProcessStage
from cluster.stage_harness import TOKENS, cut

from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.engine.engine import Engine
from edgellama.engine.program.hooks import RowHook
from edgellama.generation.sessions.session import Session
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

pytest_plugins = ["cluster.stage_fixtures"]
SECONDS = 40


@contextlib.contextmanager
def faults(stages: list[ProcessStage], dice: random.Random) -> Iterator[list[str]]:
    """Something happens to one of the stages every now and then."""
    is_over, seen = threading.Event(), list[str]()

    def signalled(stage: ProcessStage, *signals: str) -> None:
        for name in signals:
            stage.processes[-1].send_signal(getattr(signal, name))
            time.sleep(0.6 * dice.random())

    kinds: dict[str, Callable[[ProcessStage], object]] = {
        "killed": lambda stage: signalled(stage, "SIGKILL"),
        "stopped": lambda stage: signalled(stage, "SIGSTOP"),
        "asleep": lambda stage: signalled(stage, "SIGSTOP", "SIGCONT"),
        "hung": lambda stage: signalled(stage, "SIGUSR1"),
        "closed": lambda stage: stage._line.close(),
        "cut": lambda stage: stage._line._connection.shutdown(socket.SHUT_RDWR),
    }

    def run() -> None:
        while not is_over.wait(dice.choice([0.03, 0.3, 1.5, 4])):
            seen.append(dice.choice(list(kinds)))
            with contextlib.suppress(OSError):
                kinds[seen[-1]](dice.choice(stages))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def forward(engine: Any, path: Path, size: int, seed: int) -> object:
    """A prompt and a few tokens."""
    cache = engine.new_cache()
    rows = [engine.forward(TOKENS[:size], cache)]
    rows += [engine.forward([token], cache) for token in TOKENS[size : size + 9]]
    cache.close()
    return np.concatenate(rows).tobytes()


def texts(engine: Any, path: Path, size: int, seed: int) -> object:
    """Two texts of a session, the second of which has a form."""
    session = Session(engine, load_tokenizer(engine._file.metadata, path), context_length=1200)
    how: dict[str, Any] = {"max_tokens": 15, "seed": seed, "temperature": 0.9}
    first = session.generate(TOKENS[:size], logprobs=2, **how)
    second = session.generate([*TOKENS[: size // 2], 5], regex="[a-z ]+", **how)
    session.close()
    return [(each.tokens, each.logprobs, each.finish_reason) for each in (first, second)]


def saved(engine: Any, path: Path, size: int, seed: int) -> object:
    """A saved text's bytes, and what another one that is loaded from them goes on with."""
    cache, other = engine.new_cache(), engine.new_cache()
    engine.forward(TOKENS[:size], cache)
    engine.save(path.with_name("saved"), cache)
    engine.load_saved(path.with_name("saved"), other)
    return path.with_name("saved").read_bytes(), engine.forward([7], other).tobytes()


def forked(engine: Any, path: Path, size: int, seed: int) -> object:
    """Two ways on from one text, under a hook."""
    engine.hooks = [RowHook(lambda rows, step: np.multiply(rows, 1.5, out=rows), layers=(1, 2))]
    cache = engine.new_cache()
    engine.forward(TOKENS[:size], cache)
    fork = cache.fork()
    found = [engine.forward([token], each).tobytes() for token, each in ((3, cache), (4, fork))]
    engine.hooks = []
    return found


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signal stops a process here")
@pytest.mark.parametrize("seed", range(3))
def test_no_fault_changes_a_text(file: GGUFFile, seed: int) -> None:
    """Killed, stopped for ever or for a while, hung, cut off: in prompts, texts, files, forks."""
    dice, path = random.Random(seed), Path(file.path)
    # An engine of its own: files say how often hooks were changed before.
    exact = Engine(file, num_threads=1, exact=True)
    stages = [ProcessStage(path, layers) for layers in cut(4, 2)]
    engine = SpreadEngine(file, stages, chunk_tokens=128)
    until = time.monotonic() + SECONDS
    try:
        with faults(stages, random.Random(seed)) as seen:
            while time.monotonic() < until:
                what = dice.choice([forward, texts, saved, forked])
                size, chosen = dice.randrange(2, 600), dice.randrange(1000)
                found = [what(each, path, size, chosen) for each in (exact, engine)]
                assert found[0] == found[1], (what, size, chosen, seen)
        assert len(seen) > 5
    finally:
        engine.close()
        exact.close()
