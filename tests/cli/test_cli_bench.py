"""``edgellama bench`` and ``edgellama profile`` in real processes, on a tiny model."""

from __future__ import annotations

import csv
import json
import signal
import sqlite3
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner
from harness.interrupts import accept_interrupts
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.measure.bench import BenchSetting, BenchTest, all_settings, all_tests
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.model_config import ModelConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", TinyLlama())


def test_names_of_tests() -> None:
    """Tests are called as llama-bench calls them."""
    names = [test.name for test in all_tests([512, 0], [128], [(64, 16)], [0, 4096])]
    assert names == [
        *("pp512", "tg128", "pp64+tg16"),
        *("pp512 @ d4096", "tg128 @ d4096", "pp64+tg16 @ d4096"),
    ]
    for counts in ((0, 0), (-1, 5), (5, 0, -1)):
        with pytest.raises(InvalidOptionError, match="impossible test"):
            BenchTest(*counts)


def test_settings_are_all_combinations() -> None:
    """Every value of every option meets every other; impossible batches are refused."""
    options = {"num_threads": (1, 2), "batch_tokens": (64, 512)}
    found = [(s.num_threads, s.batch_tokens) for s in all_settings("x.gguf", options)]
    assert found == [(1, 64), (1, 512), (2, 64), (2, 512)]
    with pytest.raises(InvalidOptionError, match="batches of 513 tokens; allowed: 1 to 512"):
        BenchSetting("x.gguf", batch_tokens=513)


def test_rows_for_programs(run_cli: CliRunner, model: Path) -> None:
    """JSON has a row for each test with its figures, which agree with each other."""
    arguments = ("-p", "40", "-n", "6", "-pg", "20,3", "-d", "0,30", "-t", "2", "-r", "3")
    result = run_cli("bench", model, *arguments, "-o", "json")
    assert result.returncode == 0, result.stderr
    # Where kernels had to be compiled first, one more line says so.
    assert len([line for line in result.stderr.splitlines() if "compiling" not in line]) == 6
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    names = [f"{test}{depth}" for depth in ("", " @ d30") for test in ("pp40", "tg6", "pp20+tg3")]
    assert [row["test"] for row in rows] == names
    for row in rows:
        speeds = row["samples"]
        assert len(speeds) == 3
        assert row["tokens_per_second"] == pytest.approx(statistics.fmean(speeds))
        assert row["stddev"] == pytest.approx(statistics.stdev(speeds))
        assert (row["num_threads"], row["key_type"], row["type"]) == (2, "f16", "f32")
        assert row["peak_memory_bytes"] > 20e6
        assert row["start_seconds"] > 0
        is_decode, is_prefill = row["num_prompt"] == 0, row["num_generated"] == 0
        assert (row["decode_gb_per_second"] is not None) == is_decode
        assert (row["prefill_gmac_per_second"] is not None) == is_prefill
        if is_decode:
            share = row["decode_gb_per_second"] / row["plain_read_gb_per_second"]
            assert row["bandwidth_share"] == pytest.approx(share)
    with GGUFFile(model) as file:
        config = ModelConfig.from_gguf(file)
    for row, num_tokens in zip(rows, (40, 6, 23, 70, 36, 53), strict=True):
        pages = PageLayout.of(config, KVTypes("f16", "f16"), select_tier().lanes)
        assert row["kv_bytes"] == pages.used_bytes(num_tokens)


def test_a_draft_model_guesses_where_texts_are_generated(run_cli: CliRunner, model: Path) -> None:
    """Its tests say how many guesses were right, and of no bytes how fast they were read."""
    arguments = ("-p", "20", "-n", "30", "-d", "40", "-r", "1", "--draft", model)
    result = run_cli("bench", model, *arguments, "-o", "json")
    assert result.returncode == 0, result.stderr
    prompt, text = json.loads(result.stdout)
    assert prompt["draft"] == text["draft"] == str(model)
    assert (prompt["drafted_tokens"], prompt["prefill_gmac_per_second"] is None) == (0, False)
    assert 0 <= text["accepted_tokens"] <= text["drafted_tokens"]
    assert (text["decode_gb_per_second"], text["bandwidth_share"]) == (None, None)
    assert text["tokens_per_second"] > 0


@pytest.mark.parametrize("style", ["md", "csv", "jsonl", "sql"])
def test_other_styles(run_cli: CliRunner, model: Path, style: str) -> None:
    """Each style can be read by what it is for."""
    result = run_cli("bench", model, "-p", "8", "-n", "0", "-r", "1", "-b", "4", "-o", style)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    if style == "md":
        titles = [title.strip() for title in lines[0].strip("|").split("|")]
        cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
        row = dict(zip(titles, cells, strict=True))
        assert (row["test"], row["batch"], row["decode GB/s"]) == ("pp8", "4", "-")
        assert row["tokens/s"].endswith(" ± 0.00")
        assert len({len(line) for line in lines}) == 1
    elif style == "csv":
        (figures,) = csv.DictReader(lines)
        assert figures["test"] == "pp8"
    elif style == "jsonl":
        assert json.loads(lines[0])["test"] == "pp8"
    else:
        database = sqlite3.connect(":memory:")
        database.executescript(result.stdout)
        query = "SELECT test, model, batch_tokens, bandwidth_share FROM bench"
        assert database.execute(query).fetchall() == [("pp8", str(model), 4, None)]
        database.close()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bench", "no.gguf"], 1, "no.gguf: no such file"),
        (["bench", "{model}", "-p", "0", "-n", "0"], 2, "nothing to measure"),
        (["bench", "{model}", "-p", "many"], 2, "'many'; allowed: whole numbers from 0 on"),
        (["bench", "{model}", "-pg", "5"], 2, "-pg takes two numbers"),
        (["bench", "{model}", "-b", "1000"], 1, "batches of 1000 tokens"),
        (["bench", "{model}", "--draft", "a", "--lora", "b"], 2, "texts with adapters are not"),
        (["bench", "{model}", "-ctk", "q1"], 1, "KV type 'q1'; allowed:"),
        (["bench", "{model}", "--tier", "mmx"], 1, "mmx"),
        (["profile", "no.gguf"], 1, "no.gguf: no such file"),
        (["profile", "{model}", "-p", "0", "-n", "0"], 2, "nothing to measure"),
        (["profile", "{model}", "--kv", "q1"], 1, "KV type 'q1'; allowed:"),
        (["profile", "{model}", "--plot", "roof.doc"], 1, "allowed: files ending in .png"),
    ],
)
def test_impossible_requests_are_one_line(
    run_cli: CliRunner, model: Path, arguments: list[str], code: int, message: str
) -> None:
    """What cannot be done ends with one line that says so, whichever process noticed."""
    result = run_cli(*[word.format(model=model) for word in arguments])
    assert result.returncode == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("edgellama: error: ")
    assert message in line


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_an_interrupted_bench_prints_what_is_finished(model: Path) -> None:
    """Ctrl-C ends the test that runs, with its process, and the finished ones are printed."""
    command = [sys.executable, "-m", "edgellama", "bench", str(model)]
    options = ["-p", "4", "-n", "150", "-r", "3000", "-o", "json"]
    with subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=accept_interrupts,
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            if "2/2" in line:
                break
        process.send_signal(signal.SIGINT)
        rows = json.loads(process.stdout.read())
        assert process.stderr.read() == ""
        assert process.wait(60) == 130
    assert [row["test"] for row in rows] == ["pp4"]


def test_profile_of_both_steps(run_cli: CliRunner, model: Path) -> None:
    """Each step's rows and their sum: shares make one, work and time add up."""
    arguments = ("-p", "20", "-d", "10", "-r", "2", "-t", "2", "-o", "json")
    num_ops = {"prefill": 2 * 12 + 3, "decode": 2 * 13 + 3}
    for group in ("kind", "layer", "op"):
        result = run_cli("profile", model, *arguments, "--by", group)
        assert result.returncode == 0, result.stderr
        rows: list[dict[str, Any]] = json.loads(result.stdout)
        assert list(dict.fromkeys(row["step"] for row in rows)) == ["prefill", "decode"]
        for step in ("prefill", "decode"):
            *parts, whole = [row for row in rows if row["step"] == step]
            assert whole["op"] == "whole step"
            assert whole["count"] == num_ops[step]
            counts = {"layer": 2 + 3, "op": num_ops[step]}
            assert len(parts) == counts.get(group, len(parts))
            for figure in ("bytes", "macs", "count"):
                assert sum(row[figure] for row in parts) == whole[figure]
            assert sum(row["share"] for row in parts) == pytest.approx(1)
            assert sum(row["time_seconds"] for row in parts) == pytest.approx(whole["time_seconds"])


def test_profile_warns_of_a_context_beyond_the_models_own(run_cli: CliRunner, model: Path) -> None:
    """Of a text that the model was not made for a line on stderr says so."""
    result = run_cli("profile", model, "-p", "0", "-r", "1", "-d", "5000", "--json")
    assert result.returncode == 0 and json.loads(result.stdout)
    assert "warning: context of 5001 is more than the model's own" in result.stderr


def test_profile_for_people(run_cli: CliRunner, model: Path, tmp_path: Path) -> None:
    """A heading and a table for the one step that was asked for, and a roofline."""
    pytest.importorskip("matplotlib")
    plot = tmp_path / "roof.svg"
    result = run_cli("profile", model, "-p", "0", "-r", "1", "--plot", plot)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "decode, 1 token"
    assert "prefill" not in result.stdout
    assert lines[-1].startswith("a plain read of the weights reaches ")
    assert "<svg" in plot.read_text("utf-8")
