"""The examples, run as users run them, on the starter model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from places import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NOTES = {
    "animals/bats.txt": "Bats are the only mammals that can truly fly. They find their way in the "
    "dark by echolocation: they call, and listen to the echoes.\n\nMost bats eat insects.",
    "bread.md": "# Bread\n\nKnead flour, water and yeast to a dough. Let it rise for two hours.",
    "faust.txt": "Faust is a play by Johann Wolfgang von Goethe. It was published in 1808.",
}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of texts."""
    for name, text in NOTES.items():
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "notes"


def run_example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, which must be a good one."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, "PYTHONUTF8": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_rag_folder(smollm2_path: Path, notes: Path) -> None:
    """The answer is made of the passage that has it; vectors are kept until a file changes."""
    first = run_example("rag_folder.py", notes, "When was Faust published?")
    assert "reading passages: 3/3" in first.stdout
    assert "1808" in first.stdout
    assert "(from faust.txt, " in first.stdout
    again = run_example("rag_folder.py", notes, "How do bats find their way?")
    assert "reading passages" not in again.stdout
    assert "echolocation" in again.stdout
    assert f"(from {Path('animals/bats.txt')}, " in again.stdout
    (notes / "bread.md").write_text("Bread is baked.")
    changed = run_example("rag_folder.py", notes, "What is bread?", "--rerank")
    assert "reading passages: 3/3" in changed.stdout


@pytest.mark.slow
def test_batch_summaries(smollm2_path: Path, notes: Path, tmp_path: Path) -> None:
    """Every file has its summary once, long ones too, and what is done is passed over."""
    output = tmp_path / "summaries.jsonl"
    (notes / "long.txt").write_text("The river floods the meadow in spring. " * 60)
    files = sorted(path for path in notes.rglob("*") if path.is_file())
    short = ("--context", "384")
    first = run_example("batch_summaries.py", output, *files[:2], *short)
    assert first.stderr.count("2/2") == 1
    second = run_example("batch_summaries.py", output, *files, *short)
    assert second.stderr.count(f"/{len(files) - 2} ") == len(files) - 2
    lines = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    found = {line["file"]: line["summary"] for line in lines}
    assert len(lines) == len(files)
    assert set(found) == set(map(str, files))
    assert all(found.values())
    assert "Goethe" in found[str(notes / "faust.txt")]


def test_steering(smollm2_path: Path) -> None:
    """The same direction, added and taken away, makes two other texts."""
    lines = [line for line in run_example("steering.py").stdout.splitlines() if line]
    texts = {}
    for name in ("as it is", "glad", "sad"):
        (start,) = [line for line in lines if line.startswith(f"{name}: I think that my new")]
        texts[name] = start.partition(": ")[2]
    assert len(set(texts.values())) == 3


def test_custom_processor(smollm2_path: Path) -> None:
    """The text goes on without the letter, and is a text."""
    prompt = "The sun is"
    text = run_example("custom_processor.py", "--without", "e", prompt).stdout
    assert text.startswith(prompt)
    rest = text.removeprefix(prompt).strip().lower()
    assert "e" not in rest
    assert len(rest.split()) > 10


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_sidecar(smollm2_path: Path) -> None:
    """A Node program starts a model, gets an answer in pieces, and leaves no process behind."""
    result = subprocess.run(
        [
            "node",
            EXAMPLES / "sidecar" / "ask.js",
            "The code word is banana. What is the code word?",
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, "EDGELLAMA_COMMAND": f"{sys.executable} -m edgellama"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "banana" in result.stdout
    serving = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not any("--parent-pid" in line and "smollm2" in line for line in serving)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_sidecar_errors(smollm2_path: Path) -> None:
    """A model that is not there is told by the server's own words and an exit code."""
    result = subprocess.run(
        ["node", EXAMPLES / "sidecar" / "ask.js", "What?", "no-such-model"],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, "EDGELLAMA_COMMAND": f"{sys.executable} -m edgellama"},
        check=False,
    )
    assert result.returncode == 1
    assert "no-such-model" in result.stderr
    assert "edgellama ended with code 1" in result.stderr


def test_tool_use(smollm2_path: Path) -> None:
    """The model calls a function with arguments of the question, and tells what it returned."""
    pytest.importorskip("llguidance")
    result = run_example("tool_use.py", "How much is 12 times 34?")
    called, _, answer = result.stdout.partition("\n")
    assert called == "calculate(left=12, operation='*', right=34) -> 408"
    assert "408" in answer
