"""Hammering start, stop and cancel: no hang, no crash, no leak, no wrong text.

A second by default; EDGELLAMA_TEST_STRESS is how many seconds each program is to hammer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY, TESTS
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama

STRESS_VARIABLE = "EDGELLAMA_TEST_STRESS"
MODEL = TinyLlama(layers=4, context_length=2048, weight_format="Q8_0")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is held is read from /proc")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose kernels are compiled, so that no watchdog has to wait for it."""
    path = write_tiny_llama(tmp_path_factory.mktemp("stress") / "tiny.gguf", MODEL)
    for kv_type in ("f16", "f32"):
        Llama(path, kv_type=kv_type).close()
    Llama(path, exact=True).close()
    return path


def run(name: str, path: Path, seed: int = 0, seconds: str = "1") -> None:
    """Run one of the programs in ``stress``; its own watchdog ends it when it hangs."""
    seconds = os.environ.get(STRESS_VARIABLE, seconds)
    result = subprocess.run(
        [sys.executable, "-m", "stress", name, str(path), seconds, str(seed)],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "benchmarks")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{result.returncode}\n{result.stdout}\n{result.stderr[-8000:]}"


def test_many_threads(path: Path) -> None:
    """Threads that start, cancel, drop and close what they share get the texts of one alone."""
    run("hammer", path)


def test_many_sequences(path: Path) -> None:
    """Texts that are forked, saved, loaded, cancelled and batched by threads stay what they are."""
    run("sequences", path)


@pytest.mark.slow
def test_a_soak_of_conversations(path: Path) -> None:
    """200 conversations with constraints, forks, cancels and overflows, in threads and in event
    loops over a model that is unloaded and changed meanwhile, say what they say alone.
    """
    run("soak", path)


@pytest.mark.slow
def test_texts_of_every_kind(path: Path) -> None:
    """Adapters, guesses, a window, vectors and scores in threads, over hooks that come and go and
    a model that is unloaded: all is what it is alone.
    """
    run("kinds", path)


@pytest.mark.slow
def test_many_answers(path: Path) -> None:
    """Conversations with tools, schemas and cancels in threads say what each says alone."""
    run("answers", path)


@pytest.mark.slow
def test_signals(path: Path) -> None:
    """Ctrl-C in any moment leaves session and engine usable, for this thread and for others."""
    run("interrupt", path)


def test_signals_at_some_places(path: Path) -> None:
    """Ctrl-C, at some places of each call, leaves all as it was."""
    run("places", path)


@pytest.mark.slow
def test_signals_at_many_places(path: Path) -> None:
    """So it does at thousands of places, and where a second one comes soon after the first."""
    run("places", path, seconds="60")


def test_closed_by_a_handler(path: Path) -> None:
    """A signal's handler may close the model inside any call, which ends and holds nothing."""
    run("closing", path)


@pytest.mark.slow
def test_closed_by_a_handler_at_many_places(path: Path) -> None:
    """So it may at hundreds of places."""
    run("closing", path, seconds="40", seed=1)


@pytest.mark.slow
def test_thousand_sessions(path: Path) -> None:
    """Memory is flat over 1,000 sessions and over engines; threads and files are given back."""
    run("thousand", path)


@pytest.mark.slow
def test_crowded_machine(path: Path) -> None:
    """Threads without cores of their own cost a text little more than one thread would take."""
    run("crowd", path)
