"""``edgellama imatrix`` in real processes, on tiny models."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CliRunner
from harness.interrupts import accept_interrupts
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.convert.imatrix import read_imatrix
from edgellama.measure.importance import measure_importance

TEXT = "hello world, in the beginning there were bytes. " * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of two layers and 256 tokens of context."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", TinyLlama())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Enough text for several chunks."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_file_holds_what_the_api_measures(
    run_cli: CliRunner, model: Path, text: Path, tmp_path: Path
) -> None:
    """The command's file has the means of measure_importance, and one line says how many."""
    output = tmp_path / "imatrix.gguf"
    result = run_cli("imatrix", model, "-f", text, "-o", output, "-c", "64", "--chunks", "3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(": 14 matrices, measured over 192 tokens in 3 chunks\n")
    expected = measure_importance(model, TEXT, chunk_tokens=64, max_chunks=3)
    rows = read_imatrix(output)
    assert set(rows) == set(expected.sums)
    for name, row in rows.items():
        np.testing.assert_array_equal(row, expected.sums[name].astype(np.float32) / 192)


def test_options(run_cli: CliRunner, model: Path, tmp_path: Path) -> None:
    """On request text is read from standard input, the output measured, and a file replaced."""
    output = tmp_path / "imatrix.gguf"
    output.write_text("old")
    arguments = ("imatrix", model, "-f", "-", "-o", output, "--process-output", "--overwrite")
    result = run_cli(*arguments, text_input=TEXT)
    assert result.returncode == 0, result.stderr
    assert "output.weight" in read_imatrix(output)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("abc", [], "the text has 4 tokens, less than a chunk of 256; give a longer text"),
        (TEXT, ["-c", "300"], "chunks of 300 tokens; allowed: 1 to the model's context of 256"),
        ("\xff", [], "is not UTF-8"),
        (None, [], "No such file"),
        (TEXT, ["-o", "{there}"], "is there already; choose another path, or overwrite it"),
        (TEXT, ["-o", "{no}/i.gguf"], "there is no folder"),
    ],
)
def test_impossible_requests_are_one_line(
    run_cli: CliRunner,
    model: Path,
    tmp_path: Path,
    content: str | None,
    options: list[str],
    message: str,
) -> None:
    """What cannot be done ends with one line that names the value, and leaves no file."""
    there, text = tmp_path / "there", tmp_path / "text.txt"
    there.touch()
    if content is not None:
        text.write_bytes(content.encode("latin-1"))
    options = [option.format(there=there, no=tmp_path / "no") for option in options]
    result = run_cli("imatrix", model, "-f", text, "-o", tmp_path / "i.gguf", *options)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("edgellama: error: ")
    assert message in line
    assert not (tmp_path / "i.gguf").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_interrupt_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle ends the process with 130, without noise or a file."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 2000)
    output = tmp_path / "i.gguf"
    command = [sys.executable, "-m", "edgellama", "imatrix", str(model), "-f", str(text)]
    with subprocess.Popen(
        [*command, "-o", str(output)], stderr=subprocess.PIPE, preexec_fn=accept_interrupts
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        while b"reading the text" not in first:
            first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait(60) == 130
    assert errors == b""
    assert list(tmp_path.iterdir()) == [text]
