"""The comparison of engines: its order, its arithmetic, and what it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from comparison.engine import Engine, Measurement, Outcome, Task
from comparison.figures import Quantity, Ratio
from comparison.results import (
    Comparison,
    EngineResults,
    ModelResults,
    Settings,
    read_comparisons,
)
from comparison.rounds import measure
from comparison.table import markdown
from places import REPOSITORY
from reference.tiny_models import TinyLlama, write_tiny_llama
from workload import Context, Workload
from workload import measure as run_workload

SETTINGS = Settings(
    num_threads=2, depths=(64, 0), prompt_tokens=64, decode_tokens=8, repeats=2, rounds=2
)
TASK = Task(Path("model.gguf"), "The capital of", SETTINGS)
SPEEDS = [Quantity(name, depth) for name in ("prefill", "decode") for depth in (0, 64)]
FAKE_PEER = """
import json, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "-o" not in words:
    sys.exit("[not asked for JSON]")
rows = []
for depth in map(int, words.get("-d", "0").split(",")):
    for prompt, generated in ((int(words["-p"]), 0), (0, int(words["-n"]))):
        rows.append({"build_number": 1, "build_commit": "abc", "backends": "CPU",
            "flash_attn": -1, "type_k": words["-ctk"], "type_v": words["-ctv"],
            "n_prompt": prompt, "n_gen": generated, "n_depth": depth, "samples_ts": [2.5]})
print(json.dumps(rows))
"""


def results(name: str, factor: float) -> EngineResults:
    """Made-up values in which an engine is ``factor`` times as fast in round two."""
    values = {quantity: [10.0, 10.0 * factor] for quantity in SPEEDS}
    values[Quantity("peak_memory")] = [2e6 * factor]
    return EngineResults(name, [f"{name} 1.0"], values, [0.0, 0.5])


@pytest.fixture
def comparison() -> Comparison:
    """Two engines on one model."""
    engines = (results("edgellama", 4.0), results("peer", 1.0))
    return Comparison(SETTINGS, (ModelResults("Tiny", 5, engines),))


def test_ratios_are_those_of_the_rounds() -> None:
    """Values are divided round by round before the median is taken."""
    ratio = Ratio.of([1.0, 6.0, 8.0], [2.0, 2.0, 4.0])
    assert (ratio.median, ratio.lowest, ratio.highest) == (2.0, 0.5, 3.0)
    assert str(ratio) == "2.00x (0.50-3.00)"
    assert str(Ratio.of([1.0], [4.0])) == "0.25x"
    with pytest.raises(ValueError):
        Ratio.of([1.0, 2.0], [1.0])


def test_the_table_has_a_ratio_for_each_peer(comparison: Comparison) -> None:
    """Medians have units, ratios a range, and a peer without a figure empty cells."""
    (model,) = comparison.models
    starter = EngineResults("starter", [], {Quantity("first_token"): [1.0]})
    wide = Comparison(SETTINGS, (ModelResults("Tiny", 5, (*model.engines, starter)),))
    lines = markdown(wide).splitlines()
    assert lines[0] == "| Tiny | edgellama | peer | ratio | starter | ratio |"
    assert lines[3] == (
        "| prefill of 64 tokens at depth 64 | 25 tokens/s | 10 tokens/s | 2.50x (1.00-4.00) |  |  |"
    )
    assert lines[6] == ("| peak memory, 128 tokens of context | 8 MB | 2 MB | 4.00x |  |  |")
    assert "2 of 4 measurements are doubtful" in lines[-1]


def test_results_survive_their_file(comparison: Comparison, tmp_path: Path) -> None:
    """What is written is what is read, alone or with another run of the same settings."""
    path = tmp_path / "results.json"
    comparison.write(path)
    assert read_comparisons([path]) == comparison
    assert read_comparisons([path, path]).models == comparison.models * 2


@pytest.mark.parametrize("damage", ["", "[]", "{}", '"depths": [', '"figure": "speed"'])
def test_damaged_results_are_refused(damage: str, comparison: Comparison, tmp_path: Path) -> None:
    """A file that holds something else is named in one line."""
    path = tmp_path / "results.json"
    comparison.write(path)
    whole = path.read_text("utf-8")
    name = damage.split(":")[0]
    path.write_text(whole.replace(name, damage) if ":" in damage else damage, "utf-8")
    with pytest.raises(RuntimeError, match=r"results\.json holds no comparison"):
        read_comparisons([path])


def test_different_settings_do_not_go_together(comparison: Comparison, tmp_path: Path) -> None:
    """Runs with other sizes are not drawn into one plot."""
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    comparison.write(paths[0])
    text = paths[0].read_text("utf-8")
    paths[1].write_text(text.replace('"prompt_tokens": 64', '"prompt_tokens": 32'), "utf-8")
    with pytest.raises(RuntimeError, match="only the same settings"):
        read_comparisons(paths)


def test_rounds_alternate() -> None:
    """Each round begins with another engine, and what comes before the rounds is not counted."""
    calls: list[str] = []

    def measurement(name: str, quantity: Quantity) -> Measurement:
        def run(task: Task) -> Outcome:
            calls.append(name)
            return Outcome({quantity: 1.0}, 0.0, name)

        return run

    engines = [
        Engine(
            name,
            {
                "start": measurement(f"{name} start", Quantity("first_token")),
                "speed": measurement(f"{name} speed", Quantity("decode")),
            },
        )
        for name in "ab"
    ]
    found = measure(TASK, engines, lambda text: None)
    assert [call for call in calls if "speed" in call] == [
        *("a speed", "b speed"),
        *("b speed", "a speed"),
    ]
    assert calls.count("a start") == 3
    assert found[0].values == {Quantity("decode"): [1.0] * 2, Quantity("first_token"): [1.0] * 2}
    assert found[0].descriptions == ["a speed", "a start"]


def test_the_workload_measures_at_its_depths() -> None:
    """Prompt and decoding both begin at exactly the depth, which is filled once."""
    held: list[int] = []
    steps: list[tuple[int, int]] = []

    def append(tokens: object) -> None:
        assert isinstance(tokens, list)
        steps.append((len(held), len(tokens)))
        held.extend(tokens)

    def keep(count: int) -> None:
        assert count <= len(held)
        del held[count:]

    work = Workload(Path("model.gguf"), 2, 128, 16, 2, (0, 32), repeats=2)
    speeds = run_workload(work, 288, Context(append, keep))
    assert [row["depth"] for row in speeds] == [0, 32]
    warm_up = [(0, 16), (0, 1)]
    at_0, at_32 = ([(depth, 16)] * 2 + [(depth, 1), (depth + 1, 1)] * 2 for depth in (0, 32))
    assert steps == [*warm_up, *at_0, (0, 32), *at_32]


def test_a_comparison_from_end_to_end(tmp_path: Path) -> None:
    """A tiny model beside a stand-in for llama-bench gives tables, values and a plot."""
    pytest.importorskip("matplotlib")
    model = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama())
    peer = tmp_path / "llama_bench.py"
    peer.write_text(FAKE_PEER, "utf-8")
    script = [sys.executable, str(REPOSITORY / "benchmarks" / "compare.py")]
    files = {name: tmp_path / f"out.{name}" for name in ("json", "md", "svg")}
    outputs = ["--markdown", str(files["md"]), "--plot", str(files["svg"])]
    command = [
        *(*script, f"A tiny model={model}", "--llama-bench", f"peer={sys.executable} {peer}"),
        *("--rounds", "1", "--prompt-tokens", "16", "--decode-tokens", "4"),
        *("--depth", "32", "--depth", "0", "--json", str(files["json"]), *outputs),
    ]
    measured = subprocess.run(command, capture_output=True, text=True, check=False)
    assert measured.returncode == 0, measured.stderr
    table = files["md"].read_text("utf-8")
    assert measured.stdout == table
    assert "| A tiny model | edgellama | peer | ratio |" in table
    for label in ("prefill of 16 tokens at depth 32", "decode", "peak memory, 48 tokens"):
        assert f"\n| {label}" in table
    (results,) = read_comparisons([files["json"]]).models
    assert results.engines[1].values[Quantity("decode", 32)] == [2.5]
    assert 0 < results.engines[0].values[Quantity("first_token")][0] < 60
    for path in (files["md"], files["svg"]):
        path.unlink()
    again = [*script, "--plot-from", str(files["json"]), *outputs]
    redrawn = subprocess.run(again, capture_output=True, text=True, check=False)
    assert redrawn.returncode == 0, redrawn.stderr
    assert files["md"].read_text("utf-8") == table
    assert files["svg"].read_text("utf-8").startswith("<?xml")
