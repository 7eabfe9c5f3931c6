"""Weights are pages of the file: processes that run the same model share them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

# Runs a step, says that it is ready, and once told that the others are too, what it holds of the
# model: resident bytes and its proportional share of them.
PROGRAM = """
import re, sys
from pathlib import Path
from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile

path = sys.argv[1]
with GGUFFile(path) as file, Engine(file, num_threads=1) as engine:
    engine.forward(range(200), engine.new_cache(200))
    print("ready", flush=True)
    sys.stdin.readline()
    sizes = {"Rss": 0, "Pss": 0, "Private_Dirty": 0}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        mapping = re.match(r"[0-9a-f]+-[0-9a-f]+ \\\\S+ \\\\S+ \\\\S+ \\\\S+ *(.*)", line)
        name = mapping[1] if mapping else name
        field = line.partition(":")[0]
        if name == path and field in sizes:
            sizes[field] += int(line.split()[1]) * 1024
    print(*sizes.values(), flush=True)
    sys.stdin.readline()
""".replace("\\\\", "\\")


@pytest.mark.skipif(sys.platform != "linux", reason="pages are counted in /proc")
def test_two_processes_hold_one_copy(tmp_path: Path) -> None:
    """Each of two processes has the whole model resident, and answers for half of it."""
    model = TinyLlama(width=256, feed_forward=1024, layers=4, weight_format="Q8_0")
    path = write_tiny_llama(tmp_path / "model.gguf", model)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            resident, share, own = map(int, process.stdout.readline().split())
            assert resident >= 0.9 * path.stat().st_size
            assert share < 0.6 * resident
            assert own == 0
    finally:
        for process in processes:
            process.communicate("\n")
