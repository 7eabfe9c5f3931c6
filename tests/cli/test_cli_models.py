"""``list``, ``show``, ``rm`` and ``clean`` in real processes."""

from __future__ import annotations

import csv
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cli.commands.list_models import CHAT_NAMES, NAMES


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with one model, damaged ones, and leftovers."""
    models = tmp_path / "cache" / "models"
    hub = models / "hf" / "bartowski" / "Llama-3.2-1B-Instruct-GGUF"
    hub.mkdir(parents=True)
    write_tiny_llama(hub / "Llama-3.2-1B-Instruct-Q4_K_M.gguf", TinyLlama(context_length=1000))
    (models / "cut.gguf").write_bytes(b"GGUF" + bytes(20))
    old = tmp_path / "cache" / "kernels" / "generic-old"
    old.mkdir(parents=True)
    (old / "gemv.o").write_bytes(bytes(3000))
    return tmp_path / "cache"


@pytest.fixture
def run(run_cli: CliRunner, cache: Path) -> CliRunner:
    """Run the command on that cache."""
    return partial(run_cli, environment={"EDGELLAMA_CACHE": str(cache)})


def test_list_for_people_and_programs(run: CliRunner) -> None:
    """Every model has a row; a damaged one is there too; CSV says what JSON says."""
    result = run("list")
    assert result.returncode == 0 and result.stderr == ""
    head, rule, cut, model, empty, total = result.stdout.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("name", "size", "type", "context", "last use"),
    ]
    assert set(rule) == set("|-:")
    assert [cell.strip() for cell in cut.split("|")[1:-1]][2:] == ["damaged", "-", "-"]
    assert [cell.strip() for cell in model.split("|")][1:5:3] == ["llama3.2:1b", "1,000"]
    assert empty == "" and total.endswith(" in all")
    rows: list[dict[str, Any]] = json.loads(run("list", "-o", "json").stdout)
    lines = list(csv.DictReader(run("list", "-o", "csv").stdout.splitlines()))
    assert lines == [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ]
    assert rows[1]["size_bytes"] == os.stat(rows[1]["path"]).st_size
    assert tuple(rows[0]) == NAMES


def test_list_of_nothing(run_cli: CliRunner, tmp_path: Path) -> None:
    """An empty cache says how to get a model, and gives programs an empty list."""
    environment = {"EDGELLAMA_CACHE": str(tmp_path / "none")}
    result = run_cli("list", environment=environment)
    assert (result.returncode, result.stdout) == (0, "")
    assert "edgellama pull smollm2" in result.stderr
    assert json.loads(run_cli("list", "-o", "json", environment=environment).stdout) == []
    environment["XDG_DATA_HOME"] = str(tmp_path)
    for names, more in ((NAMES, ()), (CHAT_NAMES, ("--chats",))):
        head = run_cli("list", "-o", "csv", *more, environment=environment).stdout
        assert head == ",".join(names) + "\n"


def test_show(run: CliRunner, tmp_path: Path) -> None:
    """A pulled model tells its path and origin; a file elsewhere that it is none."""
    facts = json.loads(run("show", "llama3.2:1b", "--json").stdout)
    assert facts["origin"].startswith("hf:bartowski/Llama-3.2-1B-Instruct-GGUF:")
    assert facts["context_tokens"] == 1000
    lines = run("show", "llama3.2:1b").stdout.splitlines()
    assert f"path        {facts['path']}" in lines
    assert "context     1,000 tokens" in lines
    path = write_tiny_llama(tmp_path / "mine.gguf", TinyLlama())
    assert "origin      a file outside of the cache\n" in run("show", path).stdout
    missing = run("show", "llama3.2:3b")
    assert missing.returncode == 1
    assert "is not downloaded yet; run: edgellama pull llama3.2:3b" in missing.stderr


def test_rm(run: CliRunner, cache: Path) -> None:
    """A model goes by its name, once, and an unknown name deletes nothing."""
    unknown = run("rm", "llama3.2:1b", "llama3.2:3b")
    assert unknown.returncode == 1
    assert "no model called 'llama3.2:3b'; it holds: cut, llama3.2:1b" in unknown.stderr
    result = run("rm", "llama3.2:1b", "hf:bartowski/Llama-3.2-1B-Instruct-GGUF", "cut")
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("llama3.2:1b deleted, ") and first.endswith(" freed")
    assert second.startswith("cut deleted, ")
    assert list((cache / "models").rglob("*.gguf")) == []


def test_clean(run: CliRunner, cache: Path) -> None:
    """It says what goes before it goes, and deletes only what it was told to."""
    old = cache / "kernels" / "generic-old"
    dry = run("clean", "--dry-run")
    assert dry.returncode == 0 and old.exists()
    assert f" {old} |" in dry.stdout and dry.stdout.endswith("\n3.0 kB would be freed\n")
    unasked = run("clean")
    assert unasked.returncode == 2 and old.exists()
    assert "give --yes" in unasked.stderr
    assert run("clean", "converted", "downloads").stdout == "nothing to clean\n"
    done = run("clean", "kernels", "--yes")
    assert done.stdout.endswith("\n3.0 kB freed\n") and not old.exists()
    assert len(list((cache / "models").rglob("*.gguf"))) == 2


@pytest.mark.parametrize("arguments", [["rm"], ["clean", "models"]])
def test_wrong_usage(run: CliRunner, arguments: list[str]) -> None:
    """What cannot be meant is one line."""
    result = run(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("edgellama: error: ")
