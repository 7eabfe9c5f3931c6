"""Other engines' programs: how they are called and read, and which columns they make.

tests/data/llama_bench.json is the output of llama.cpp's ``llama-bench -m
SmolLM2-135M-Instruct.Q4_1.gguf -t 2 -ctk f16 -ctv f16 -o json -p 64 -n 8 -d 0,64 -r 2``. The lines
of llama-sweep-bench below have the form that its source prints, with invented numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from comparison import llama_bench, sweep_bench
from comparison.engine import Task
from comparison.figures import Quantity
from comparison.peers import peer_engines
from comparison.results import Settings
from places import REPOSITORY

RECORDED = (REPOSITORY / "tests" / "data" / "llama_bench.json").read_text("utf-8")
SETTINGS = Settings(
    num_threads=2, depths=(64, 0), prompt_tokens=64, decode_tokens=8, repeats=2, rounds=2
)
TASK = Task(Path("model.gguf"), "The capital of", SETTINGS)
SPEEDS = [Quantity(name, depth) for name in ("prefill", "decode") for depth in (0, 64)]


def sweep_line(n_kv: int, prompt: int = 64, generated: int = 8) -> str:
    """A line as sweep-bench prints it."""
    return (
        f'{{"n_kv_max": 256, "n_batch": 2048, "n_ubatch": {prompt}, "flash_attn": 1, '
        f'"n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, "pp": {prompt}, '
        f'"tg": {generated}, "n_kv": {n_kv}, "t_pp": 0.5, "speed_pp": {200 - n_kv}.25, '
        f'"t_tg": 0.25, "speed_tg": {100 - n_kv}.5 }}'
    )


def test_llama_bench_is_read() -> None:
    """Every test of a recorded output is found at its depth, as the median of its repeats."""
    report = llama_bench.read(RECORDED, "", TASK)
    assert sorted(report.speeds, key=Quantity.sort_key) == SPEEDS
    rows = json.loads(RECORDED)
    deep = next(row for row in rows if row["n_depth"] == 64 and row["n_gen"] == 8)
    assert report.speeds[Quantity("decode", 64)] == pytest.approx(sum(deep["samples_ts"]) / 2)
    assert "flash attention auto, KV f16/f16" in report.description


@pytest.mark.parametrize("output", ["", "[]", "{}", "[1]", "loading", RECORDED.replace("64", "32")])
def test_other_outputs_of_llama_bench_are_refused(output: str) -> None:
    """What is no JSON, or lacks a test that was asked for, is an error that names the program."""
    with pytest.raises(RuntimeError, match="llama-bench"):
        llama_bench.read(output, "", TASK)


def test_llama_bench_is_asked_for_the_same() -> None:
    """Sizes, depths, threads and KV types are those of the task; memory reads all at once."""
    words = llama_bench.speed_arguments(TASK)
    asked = "-m model.gguf -t 2 -ctk f16 -ctv f16 -o json -p 64 -n 8 -d 0,64 -r 2"
    assert words == asked.split()
    assert "-p 128 -n 0" in " ".join(llama_bench.memory_arguments(TASK))


def test_sweep_bench_is_read() -> None:
    """Rows among other lines of standard error are found; those of other depths are left out."""
    lines = [
        "llm_load_tensors: {",
        *map(sweep_line, (0, 32, 64)),
        "======= tg_end for n_kv = 64",
    ]
    report = sweep_bench.read("", "\n".join(lines), TASK)
    assert [report.speeds[quantity] for quantity in SPEEDS] == [200.25, 136.25, 100.5, 36.5]
    assert "flash attention on" in report.description


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "depth of 0"),
        ([sweep_line(0)], "depth of 64"),
        ([sweep_line(0, generated=16)], "64 and 16 tokens"),
        ([sweep_line(0, prompt=32)], "32 and 8 tokens"),
    ],
)
def test_other_outputs_of_sweep_bench_are_refused(lines: list[str], complaint: str) -> None:
    """A sweep that lacks a depth, or measured other sizes, is an error that says which."""
    with pytest.raises(RuntimeError, match=complaint):
        sweep_bench.read("", "\n".join(lines), TASK)


def test_sweep_bench_measures_multiples_of_the_prompt() -> None:
    """Depths between its steps are refused before anything runs."""
    settings = Settings(
        num_threads=2, depths=(0, 96), prompt_tokens=64, decode_tokens=8, repeats=1, rounds=1
    )
    with pytest.raises(RuntimeError, match="depth of 96"):
        peer_engines([("sweep-bench", sys.executable)], settings, 0)


@pytest.mark.parametrize("command", ["", "'open", "no-such-program -v"])
def test_a_peer_that_cannot_run_is_refused(command: str) -> None:
    """A command that starts no program is refused before anything is measured."""
    with pytest.raises(RuntimeError, match=r"--llama-bench .*allowed"):
        peer_engines([("llama-bench", command)], SETTINGS, 0)


def test_peers_of_one_name_share_a_column(tmp_path: Path) -> None:
    """A build's benchmark and its command line are one engine; two benchmarks need two names."""
    program = tmp_path / "a=b"
    program.touch(mode=0o755)
    named = [
        ("llama-bench", str(program)),
        ("llama-bench", "avx2=env LD_LIBRARY_PATH=/opt llama-bench"),
        ("peer-command", f"{program} -m {{model}} -p {{prompt}}"),
    ]
    engines = {engine.name: set(engine.measurements) for engine in peer_engines(named, SETTINGS, 0)}
    assert engines == {"llama.cpp": {"speed", "memory", "start"}, "avx2": {"speed", "memory"}}
    with pytest.raises(RuntimeError, match=r"the speed of llama\.cpp is measured already"):
        peer_engines([*named, named[0]], SETTINGS, 0)
    with pytest.raises(RuntimeError, match="a peer called edgellama"):
        peer_engines([("llama-bench", f"edgellama={sys.executable}")], SETTINGS, 0)


@pytest.mark.parametrize("shown", ["", "{prompt} Paris"])
def test_a_start_is_the_first_token(shown: str) -> None:
    """A command that writes nothing, or the prompt first, is refused: its time means nothing."""
    command = f'{sys.executable} -c \'print("{shown}", end="")\''
    (engine,) = peer_engines([("peer-command", command)], SETTINGS, 0)
    with pytest.raises(RuntimeError, match="the first token alone"):
        engine.measurements["start"](TASK)
