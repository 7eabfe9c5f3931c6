"""``edgellama embed`` in real processes: where texts come from, and where vectors go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CliRunner
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama

TEXTS = ["one text", "another, longer text", "the third"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return write_tiny_llama(tmp_path_factory.mktemp("embed") / "tiny.gguf", TinyLlama())


@pytest.fixture(scope="module")
def vectors(model: Path) -> Any:
    """What the library gives for TEXTS."""
    with Llama(model, exact=True) as llama:
        return llama.embed(TEXTS)


def lines_of(output: str) -> list[dict[str, Any]]:
    """Objects, a line each."""
    return [json.loads(line) for line in output.splitlines()]


def test_arguments(run_cli: CliRunner, model: Path, vectors: Any) -> None:
    """Texts given as arguments come out as lines of JSON, each number exactly."""
    result = run_cli("embed", model, *TEXTS, "--exact")
    assert (result.returncode, result.stderr) == (0, "")
    lines = lines_of(result.stdout)
    assert [line["id"] for line in lines] == [0, 1, 2]
    assert all(line["num_tokens"] > 1 and "num_dropped" not in line for line in lines)
    found = np.array([line["embedding"] for line in lines], np.float32)
    np.testing.assert_array_equal(found, vectors)


def test_pipe_with_objects(run_cli: CliRunner, model: Path, vectors: Any) -> None:
    """Lines through a pipe are texts or objects with text and id; empty ones are passed over."""
    lines = ["one text", "", json.dumps({"id": "b", "text": TEXTS[1]}), "the third\r"]
    result = run_cli("embed", model, "--exact", text_input="\n".join(lines))
    assert [line["id"] for line in lines_of(result.stdout)] == [0, "b", 2]
    found = np.array([line["embedding"] for line in lines_of(result.stdout)], np.float32)
    np.testing.assert_array_equal(found, vectors)


def test_files(run_cli: CliRunner, model: Path, vectors: Any, tmp_path: Path) -> None:
    """A file of lines becomes an array, or lines in a file; progress is told on stderr."""
    source, array, lines = tmp_path / "in.txt", tmp_path / "out.npy", tmp_path / "out.jsonl"
    source.write_text("\n".join(TEXTS) + "\n")
    result = run_cli("embed", model, "-f", source, "-o", array, "--exact")
    assert (result.returncode, result.stdout) == (0, "")
    assert "embedding texts" in result.stderr
    np.testing.assert_array_equal(np.load(array), vectors)
    result = run_cli("embed", model, "-f", source, "-o", lines, "--exact", "--raw")
    raw = np.array([line["embedding"] for line in lines_of(lines.read_text())], np.float32)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=0.1)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(raw / lengths, vectors, rtol=0, atol=1e-6)


def test_truncation(run_cli: CliRunner, model: Path, tmp_path: Path) -> None:
    """A text that is too long ends the command and leaves no file, or is cut and told."""
    output = tmp_path / "out.npy"
    long = "many words " * 20
    result = run_cli("embed", model, "a", long, "-c", "16", "-o", output)
    assert result.returncode == 1
    assert "text 1 has" in result.stderr
    assert "or let --truncate drop its end" in result.stderr
    assert list(tmp_path.glob("*out*")) == []
    result = run_cli("embed", model, "a", long, "-c", "16", "--truncate", "--pooling", "last")
    assert [line.get("num_dropped", 0) > 0 for line in lines_of(result.stdout)] == [False, True]


WRONG: dict[str, tuple[list[str], str | None, int, str]] = {
    "nothing": ([], None, 2, "no texts; give some, -f FILE, or lines through a pipe"),
    "both": (["a", "-f", "x.txt"], None, 2, "texts and a file; give one of them"),
    "no file": (["-f", "nowhere.txt"], None, 1, "nowhere.txt"),
    "no object": (["-f", "{folder}/bad.jsonl"], None, 1, "line 2 is no JSON object with"),
}


@pytest.mark.parametrize(("words", "text", "code", "message"), WRONG.values(), ids=WRONG.keys())
def test_errors(
    run_cli: CliRunner,
    model: Path,
    tmp_path: Path,
    words: list[str],
    text: str | None,
    code: int,
    message: str,
) -> None:
    """What is wrong is one line that names it."""
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nplain\n')
    arguments = [word.format(folder=tmp_path) for word in words]
    result = run_cli("embed", model, *arguments, text_input=text)
    assert result.returncode == code
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
