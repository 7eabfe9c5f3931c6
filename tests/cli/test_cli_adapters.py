"""--lora of every command that runs a model, and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama

MODEL = TinyLlama()
Files = tuple[Path, Path, Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A tiny model and two adapters, one of them with a colon in its name."""
    model = write_tiny_llama(tmp_path / "tiny.gguf", MODEL)
    one = write_gguf_adapter(tmp_path / "one.gguf", random_gguf_factors(MODEL, 4, 1))
    two = write_gguf_adapter(tmp_path / "t:2.gguf", random_gguf_factors(MODEL, 4, 2))
    return model, one, two


def expected_text(files: Files, scales: dict[Path, float]) -> str:
    """What the model says with adapters."""
    with Llama(files[0], num_threads=1) as llama:
        adapters = {llama.load_adapter(path): scale for path, scale in scales.items()}
        return llama.generate("abc", temperature=0, max_tokens=8, adapters=adapters).text


def test_generate_and_batch(run_cli: Callable[..., Any], files: Files, tmp_path: Path) -> None:
    """Both give the texts of the API with the same adapters and scales."""
    model, one, two = files
    plain = expected_text(files, {})
    strong, both = expected_text(files, {one: 1}), expected_text(files, {one: 0.5, two: 1})
    assert len({plain, strong, both}) == 3
    options = ("-n", "8", "--temperature", "0", "-t", "1")
    for lora, text in (
        ((), plain),
        (("--lora", one), strong),
        (("--lora", f"{one}:0"), plain),
        (("--lora", f"{one}:.5", "--lora", two), both),
    ):
        done = run_cli("generate", model, "-p", "abc", *options, *lora)
        assert (done.stdout, done.returncode) == (text.removesuffix("\n") + "\n", 0), done.stderr
    (tmp_path / "in.jsonl").write_text('{"prompt": "abc"}\n')
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    done = run_cli("batch", model, source, target, *options, "--lora", one)
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_text())["text"] == strong


def test_footprint_counts_adapters(run_cli: Callable[..., Any], files: Files) -> None:
    """Their files, and the factors that are kept as int8, too; the measurement uses them."""
    model, one, two = files

    def row(*arguments: object) -> dict[str, Any]:
        done = run_cli(
            "footprint", *map(str, (model, "--kv", "f16", "-c", "64", *arguments)), "--json"
        )
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout)
        return dict(found)

    plain, both = row(), row("--lora", one, "--lora", f"{two}:0.5")
    added = both["predicted_adapter_bytes"]
    assert plain["predicted_adapter_bytes"] == 0
    assert both["predicted_total_bytes"] == plain["predicted_total_bytes"] + added
    size = one.stat().st_size + two.stat().st_size
    assert size < added < 1.6 * size
    measured = row("--lora", one, "--measure")
    assert measured["measured_rss_bytes"] == pytest.approx(
        measured["predicted_rss_bytes"], rel=0.05
    )
    done = run_cli("footprint", str(model), "--lora", str(model))
    assert (done.returncode, "is no LoRA adapter; needed: " in done.stderr) == (1, True)


def test_chat(run_cli: Callable[..., Any], files: Files) -> None:
    """A chat through a pipe answers with its adapters."""
    model, one, _ = files
    with Llama(model, num_threads=1) as llama:
        llama.load_adapter(one)
        with llama.chat(adapters={"one": -1.5}, temperature=0, max_tokens=8) as chat:
            expected = chat.send("hello").text
    arguments = ("chat", model, "-n", "8", "--temperature", "0", "-t", "1")
    done = run_cli(*arguments, "--lora", f"{one}:-1.5", text_input="hello\n")
    assert done.stdout.strip() == expected.strip(), done.stderr
    assert run_cli(*arguments, text_input="hello\n").stdout.strip() != expected.strip()


def test_perplexity(run_cli: Callable[..., Any], files: Files, tmp_path: Path) -> None:
    """The adapter changes the perplexity, and the base is compared without it."""
    model, one, _ = files
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 10)
    arguments = ("perplexity", model, "-f", text, "-c", "64", "--chunks", "2", "--json", "-t", "1")
    plain = json.loads(run_cli(*arguments).stdout)
    done = run_cli(*arguments, "--lora", f"{one}:0.3", "--kl-base", model)
    adapted = json.loads(done.stdout)
    assert adapted["perplexity"] != plain["perplexity"]
    assert adapted["base"]["perplexity"] == pytest.approx(plain["perplexity"])
    assert adapted["kl"] > 0.01


def test_bench(run_cli: Callable[..., Any], files: Files) -> None:
    """The row names the adapters, and a table shows them where there are any."""
    model, one, _ = files
    arguments = ("bench", model, "-p", "16", "-n", "2", "-r", "1", "-t", "1")
    done = run_cli(*arguments, "--lora", f"{one}:0.5", "-o", "json")
    rows = json.loads(done.stdout)
    assert {row["adapters"] for row in rows} == {f"{one}:0.5"}, done.stderr
    table = run_cli(*arguments, "--lora", one).stdout
    assert "one.gguf:1" in table
    assert "adapters" not in run_cli(*arguments).stdout


def test_errors(run_cli: Callable[..., Any], files: Files, tmp_path: Path) -> None:
    """What cannot be used is told in one line, with exit code 1 or, for a wrong option, 2."""
    model, one, _ = files
    other = dict(random_gguf_factors(TinyLlama(width=128), 4))
    write_gguf_adapter(tmp_path / "other.gguf", other)
    prompt = ("generate", model, "-p", "abc", "-n", "1", "-t", "1")
    for lora, text, code in (
        ((tmp_path / "none.gguf",), "none.gguf: no such file", 1),
        ((model,), "general.type is None; needed: a LoRA adapter", 1),
        ((tmp_path / "other.gguf",), "which do not fit 288 x 64", 1),
        ((f"{one}:much",), "allowed: a number, as in FILE:0.5", 2),
        ((f"{one}:nan",), "is nan; allowed: numbers from", 1),
        ((one, one), "2 times; allowed: once", 2),
    ):
        done = run_cli(*prompt, *(word for path in lora for word in ("--lora", path)))
        assert text in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert (done.returncode, done.stdout) == (code, "")
    for name in ("chat", "batch", "perplexity", "bench"):
        assert "--lora FILE[:SCALE]" in run_cli(name, "--help").stdout
