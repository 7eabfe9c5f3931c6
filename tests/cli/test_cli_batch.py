"""``edgellama batch`` in real processes: texts, errors, and ends that nobody chose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import pytest
from conftest import CliRunner
from harness.interrupts import accept_interrupts
from harness.patience import until
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama

TIMEOUT_S = 60.0
NUM_MANY = 400
OPTIONS = ("-n", "30", "--temperature", "0", "--exact", "-t", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return write_tiny_llama(tmp_path_factory.mktemp("batch") / "tiny.gguf", TinyLlama())


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A file with many prompts, which take some seconds."""
    prompts = ({"id": f"id {number}", "prompt": f"text {number}"} for number in range(NUM_MANY))
    return write_lines(tmp_path / "many.jsonl", prompts)


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    """A JSON object a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines, each of which must be whole."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def start(model: Path, source: Path | str, target: Path | str) -> subprocess.Popen[bytes]:
    """A batch that a test ends or feeds."""
    command = [sys.executable, "-m", "edgellama", "batch", str(model), str(source), str(target)]
    return subprocess.Popen(
        [*command, *OPTIONS, "-w", "4"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=accept_interrupts,
    )


def wait_for_lines(path: Path, count: int) -> None:
    """Until a process has written so many."""
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)


def test_texts_errors_and_a_second_run(run_cli: CliRunner, model: Path, tmp_path: Path) -> None:
    """Texts are those of each alone; what cannot run says why; nothing is done twice."""
    messages = [{"role": "user", "content": "Hello"}]
    source = write_lines(
        tmp_path / "in.jsonl",
        [
            {"id": "a", "prompt": "once"},
            {"id": "b", "prompt": "upon", "max_tokens": 3},
            {"id": "c", "messages": messages, "seed": 1},
            {"id": "d", "prompt": "x" * 1000},
            {"id": "a", "prompt": "the same id again"},
            {"prompt": "a time"},
            {"id": "e", "prompt": "x", "tempreature": 1},
        ],
    )
    with source.open("a") as file:
        file.write("nonsense\n")
    target = tmp_path / "out.jsonl"
    result = run_cli("batch", model, source, target, *OPTIONS, "--system", "Be brief.")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "edgellama: 4 texts, " in result.stderr
    assert "; left out, with the id of an earlier line: 1; 3 failed" in result.stderr
    assert "done before" not in result.stderr
    assert "3 of 8 lines failed; the first, id " in result.stderr
    lines = {line["id"]: line for line in read_lines(target)}
    assert len(lines) == len(read_lines(target)) == 7
    errors = [f"id {key!r}: {line['error']}" for key, line in lines.items() if "error" in line]
    assert any(f"the first, {error}; " in result.stderr for error in errors)
    with Llama(model, num_threads=1, exact=True) as llama:
        options: Any = {"max_tokens": 30, "temperature": 0}
        texts = {
            "a": llama.generate("once", **options).text,
            "b": llama.generate("upon", max_tokens=3, temperature=0).text,
            "c": llama.chat("Be brief.", messages=messages, **options)
            .regenerate(seed=1)
            .wait()
            .text,
            6: llama.generate("a time", **options).text,
        }
    assert {key: line["text"] for key, line in lines.items() if "text" in line} == texts
    usage = lines["b"]["usage"]
    assert (usage["completion_tokens"], lines["b"]["finish_reason"]) == (3, "length")
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert "1001 tokens > 256 maximum" in lines["d"]["error"]
    assert lines["e"]["error"].startswith("there is no option 'tempreature'; did you mean ")
    assert "line 8 is no JSON" in lines[8]["error"]
    before = target.read_bytes()
    again = run_cli("batch", model, source, target, *OPTIONS)
    assert (again.returncode, target.read_bytes()) == (0, before)
    assert "0 texts, 0 tokens at 0.0 tokens/s; 7 were done before; left out, " in again.stderr
    retried = run_cli("batch", model, source, target, *OPTIONS, "--retry-errors")
    assert retried.returncode == 1
    assert sorted(map(str, read_lines(target))) == sorted(map(str, lines.values()))


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_and_gone_on(run_cli: CliRunner, model: Path, many: Path, number: int) -> None:
    """After kill -9 and after Ctrl-C all lines are whole, and a second run adds the others."""
    target = many.with_name("out.jsonl")
    process = start(model, many, target)
    wait_for_lines(target, 5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert b"the same command goes on" in errors
        assert b"Traceback" not in errors
    num_done = target.read_bytes().count(b"\n")
    assert 5 <= num_done < NUM_MANY
    result = run_cli("batch", model, many, target, *OPTIONS)
    assert result.returncode == 0, result.stderr
    assert f"; {num_done} were done before" in result.stderr
    lines = read_lines(target)
    assert sorted(line["id"] for line in lines) == sorted(f"id {n}" for n in range(NUM_MANY))
    with Llama(model, num_threads=1, exact=True) as llama:
        for line in lines[:: NUM_MANY // 20]:
            prompt = line["id"].replace("id", "text")
            assert line["text"] == llama.generate(prompt, max_tokens=30, temperature=0).text


def test_a_pipe_is_answered_before_it_ends(model: Path) -> None:
    """What has come is computed while more is waited for; texts go to standard output alone."""
    process = start(model, "-", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(2):
        send(process.stdin, {"id": number, "prompt": "abc"})
        assert json.loads(process.stdout.readline())["id"] == number
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output) == (0, b""), errors


def send(pipe: IO[bytes], line: dict[str, Any]) -> None:
    """Write a line at once."""
    pipe.write(json.dumps(line).encode() + b"\n")
    pipe.flush()


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked otherwise there")
def test_two_at_once(run_cli: CliRunner, model: Path, many: Path) -> None:
    """A second process does not write into a file that the first one writes."""
    target = many.with_name("out.jsonl")
    process = start(model, many, target)
    wait_for_lines(target, 1)
    result = run_cli("batch", model, many, target)
    process.kill()
    process.communicate()
    assert result.returncode == 1
    assert "another process is writing to it" in result.stderr


def test_wrong_usage(run_cli: CliRunner, model: Path, tmp_path: Path) -> None:
    """Too few words, one file twice and no input are one line each; nothing is made."""
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    for words, code, message in (
        ([model], 2, "give the two files"),
        (["smollm2", source], 2, f"batch smollm2 {source} OUT.jsonl"),
        ([model, source], 2, f"batch {model} {source} OUT.jsonl"),
        ([model, source, source], 2, "the same file"),
        ([model, tmp_path / "none", tmp_path / "out"], 1, "none: No such file"),
        ([model, source, tmp_path / "no" / "out"], 1, "out: No such file"),
        (["no-such-model", source, tmp_path / "out"], 1, "no file and no model"),
    ):
        result = run_cli("batch", *words)
        assert result.returncode == code
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["empty", "in.jsonl"]
