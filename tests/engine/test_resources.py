"""What a model takes: memory as far as its context is used, and no processor while it waits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.measure.footprint_measurement import _resident_bytes
from edgellama.quant.gguf.file import GGUFFile

psutil = pytest.importorskip("psutil")
LONG_CONTEXT = 131072
MODEL = TinyLlama(layers=4, context_length=LONG_CONTEXT, weight_format="Q8_0")
PAGE_BYTES = 4096
MORE_THAN_FILE_AND_KV_BYTES = 200_000_000
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are counted in /proc")

# Loads a model for a context of so many tokens, says a few words, and prints the peak of the
# process; then what a second of waiting costs, in seconds of the processor.
PROGRAM = """
import sys, time
from edgellama import Llama
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes

with Llama(sys.argv[1], context_length=int(sys.argv[2]), num_threads=2) as llama:
    with llama.chat(max_tokens=5, temperature=0) as chat:
        chat.send("hello")
        time.sleep(0.3)
        before = time.process_time()
        time.sleep(1.0)
        print(peak_memory_bytes(), time.process_time() - before)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a context of 128K tokens."""
    return write_tiny_llama(tmp_path_factory.mktemp("resources") / "long.gguf", MODEL)


def chatting(path: Path, context_length: int) -> subprocess.Popen[str]:
    """A process of the program."""
    command = [sys.executable, "-c", PROGRAM, str(path), str(context_length)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def peak_and_idle(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Peak memory in bytes, and seconds of processor time in a second of waiting."""
    output, _ = process.communicate()
    assert process.returncode == 0
    peak, seconds = output.split()
    return int(peak), float(seconds)


def test_a_cache_grows_with_its_tokens(path: Path) -> None:
    """Of a cache for 128K tokens so many pages are in memory as tokens have been seen."""
    with GGUFFile(path) as file, Engine(file, num_threads=2) as engine:
        cache = engine.new_cache()
        assert cache.context_length == LONG_CONTEXT
        token_bytes = cache.layout.position_bytes
        # Each head of each layer has a place for keys and one for values, which need not begin
        # or end with a page.
        num_places = 2 * MODEL.layers * MODEL.kv_heads
        for length in (512, 1024, 2048):
            engine.forward([1] * (length - cache.length), cache)
            pages = [page.memory for page in cache.pages if page is not None]
            held = sum(map(_resident_bytes, pages))
            assert length * token_bytes <= held
            assert held <= length * token_bytes + 2 * PAGE_BYTES * num_places
        assert held < LONG_CONTEXT * token_bytes // 50
        cache.close()


def test_a_long_context_starts_small_and_idles(path: Path) -> None:
    """Loading for 128K tokens takes the memory that 512 take, and a chat waits without work."""
    processes = [chatting(path, length) for length in (512, LONG_CONTEXT)]
    (small, _), (large, idle_s) = map(peak_and_idle, processes)
    assert abs(large - small) < 8_000_000
    assert idle_s < 0.02


@pytest.mark.slow
def test_a_chat_at_its_prompt_uses_no_processor(path: Path) -> None:
    """The command waits for the next message without work."""
    command = [sys.executable, "-m", "edgellama", "chat", str(path), "-n", "5", "-c", "512"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.read(1)
        time.sleep(0.5)
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        time.sleep(1.0)
        # The system counts in hundredths of a second.
        assert sum(psutil.Process(process.pid).cpu_times()[:2]) - before <= 0.02
    finally:
        process.communicate()
    assert process.returncode == 0


def test_peak_of_the_starter_model(smollm2_path: Path, run_cli: CliRunner) -> None:
    """With a full context the peak is file and KV, and no more than 200 MB beyond."""
    arguments = ("--measure", "-c", "600", "-t", "2", "-o", "json")
    result = run_cli("footprint", str(smollm2_path), *arguments)
    assert result.returncode == 0, result.stderr
    row: dict[str, Any] = json.loads(result.stdout)[0]
    beyond = row["measured_rss_bytes"] - smollm2_path.stat().st_size - row["measured_kv_bytes"]
    assert beyond <= MORE_THAN_FILE_AND_KV_BYTES
