"""A worker of a batch, without Ray: the lines of ``edgellama batch``, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner
from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama

from edgellama.cluster.batch_worker import BatchTask, BatchWorker
from edgellama.engine.model_identity import model_identity
from edgellama.quant.gguf.file import GGUFFile

OPTIONS = {"max_tokens": 6, "temperature": 0.9, "seed": 3}
LINES: list[dict[str, Any]] = [
    {"id": 1, "prompt": "Hello"},
    {"id": "two", "prompt": "\ud800 ä", "max_tokens": 2, "logprobs": 1},
    {"id": 3, "messages": [{"role": "user", "content": "Hi"}], "schema": {"type": "boolean"}},
    {"id": 4, "prompt": "x " * 500},
    {"id": 5, "nothing": 1},
    {"id": 6, "prompt": "Hello", "temperature": -1},
]


@pytest.fixture
def task(tiny_path: Path) -> BatchTask:
    """The tiny model, two texts at once."""
    with GGUFFile(tiny_path) as file:
        identity = model_identity(file)
    return BatchTask(str(tiny_path), identity, 2, {"num_threads": 1}, OPTIONS)


def made(task: BatchTask, lines: list[dict[str, Any]]) -> dict[Any, Any]:
    """What a worker makes of lines, by id."""
    found = BatchWorker(task)({"line": [json.dumps(line) for line in lines]})["line"]
    return {line["id"]: line for line in map(json.loads, found)}


@pytest.mark.parametrize("extra", [(), ("--chat", "--system", "Be brief.")])
def test_a_worker_makes_the_lines_of_the_command(
    task: BatchTask, tmp_path: Path, run_cli: CliRunner, extra: tuple[str, ...]
) -> None:
    """Texts, forms, log-probabilities and errors are those of a batch in one process."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in LINES), "utf-8")
    result = run_cli("batch", task.model, source, target, "-n", "6", "--temperature", "0.9",
                     "--seed", "3", "--width", "2", *extra)  # fmt: skip
    assert result.returncode == 1 and "lines failed" in result.stderr
    expected = {line["id"]: line for line in map(json.loads, target.read_text().splitlines())}
    chats = replace(task, is_chat=bool(extra), system=extra[2] if extra else None)
    assert made(chats, LINES) == expected
    assert len(expected) == len(LINES)


def test_adapters_are_every_workers_own(task: BatchTask, tmp_path: Path) -> None:
    """They are loaded by path, with their scales."""
    path = write_gguf_adapter(tmp_path / "a.gguf", random_gguf_factors(TinyLlama()))
    plain, adapted = (
        made(replace(task, adapters=uses), LINES[:1])[1]["text"]
        for uses in ((), [(str(path), 2.0)])
    )
    assert plain != adapted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": "0" * 32}, "another model than the driver's"),
        ({"model": "nowhere.gguf"}, "nowhere.gguf"),
        ({"adapters": [("nowhere.gguf", 1.0)]}, "nowhere.gguf"),
        ({"options": {"max_tokens": -1}}, "max_tokens"),
    ],
)
def test_a_worker_that_cannot_work_says_why(
    task: BatchTask, changes: dict[str, Any], words: str
) -> None:
    """In one line in the place of all texts, so that nothing is written as if it were one."""
    lines = [json.dumps(line) for line in LINES]
    (found,) = BatchWorker(replace(task, **changes))({"line": lines})["line"]
    assert list(json.loads(found)) == ["refused"]
    assert words in json.loads(found)["refused"]
