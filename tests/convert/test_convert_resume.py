"""Conversions that are stopped, by force, a full disk or Ctrl-C, and what goes on afterwards."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.interrupts import accept_interrupts
from harness.patience import until
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.convert import convert, pipeline
from edgellama.convert.output import own_file, writer
from edgellama.convert.output.journal import Journal, num_finished
from edgellama.convert.pipeline import ConversionProgress
from edgellama.convert.planning.file_names import journal_path
from edgellama.quant.errors import ConversionError

TINY = TinyLlama(width=256, feed_forward=512, vocab_size=300, layers=4)
STALL_S = 0.05
STALLING_CLI = f"""
import sys, time
from edgellama.convert.output import writer
write = writer.OutputFiles.write
def write_slowly(*arguments):
    time.sleep({STALL_S})
    write(*arguments)
if sys.argv.pop(1) == "slow":
    writer.OutputFiles.write = write_slowly
from edgellama.cli import main
main()
"""


def interrupt(*arguments: Any) -> None:
    """What stands for the end of the process."""
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is only read."""
    return write_tiny_llama(tmp_path_factory.mktemp("source") / "tiny.gguf", TINY)


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SHA-256 of a conversion that nobody stopped."""
    return sha256(convert(source, tmp_path_factory.mktemp("whole") / "w.gguf", type="q8_0").path)


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stop_after(
    source: Path, output: Path, num_tensors: int, monkeypatch: pytest.MonkeyPatch, **arguments: Any
) -> None:
    """Convert until some tensors are finished, and leave everything as a killed process does."""

    def add(journal: Journal, record: Any) -> None:
        if len(journal.records) == num_tensors:
            raise KeyboardInterrupt
        real_add(journal, record)

    real_add = Journal.add
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "add", add)
        convert(source, output, type="q8_0", **arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize("moment_s", [None, 0.0, pytest.param(0.4, marks=pytest.mark.slow), 1.0])
def test_a_killed_command_is_resumed_to_the_same_bytes(
    source: Path, expected: str, tmp_path: Path, moment_s: float | None
) -> None:
    """After kill -9 at any moment nothing has the final name, and --resume gives the same bytes.

    The first kill comes before the journal, the others some time after it was begun.
    """
    output = tmp_path / "out.gguf"
    command = [sys.executable, "-c", STALLING_CLI]
    arguments = ["convert", str(source), str(output), "--type", "q8_0"]
    child = subprocess.Popen([*command, "slow", *arguments], stdout=subprocess.DEVNULL)
    if moment_s is not None:
        until(journal_path(output).exists)
        time.sleep(moment_s)
    assert child.poll() is None
    child.kill()
    child.wait()
    assert not output.exists()
    subprocess.run([*command, "fast", *arguments, "--resume"], check=True, capture_output=True)
    assert sha256(output) == expected
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("answer", "words", "num_kept"),
    [
        (None, "starting again; --resume would have kept 7 finished tensors", 0),
        ("\n", "out.gguf was begun and has 7 tensors. Go on with it?", 7),
        ("n\n", "out.gguf was begun and has 7 tensors. Go on with it?", 0),
    ],
)
def test_nothing_finished_is_dropped_without_a_word(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    words: str,
    num_kept: int,
) -> None:
    """Without --resume a command at a terminal asks, and elsewhere says what it does again."""
    output, report = tmp_path / "out.gguf", tmp_path / "report.json"
    stop_after(source, output, 7, monkeypatch)
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "edgellama", "convert", str(source), str(output)]
    if answer is not None:
        os.write(ours, answer.encode())
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        result = subprocess.run(
            [*command, "--type", "q8_0", "--report", str(report)],
            stdin=subprocess.DEVNULL if answer is None else theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
            check=False,
        )
        shown = terminal.read(10_000).decode()
        os.close(theirs)
    assert result.returncode == 0
    assert words in shown
    assert json.loads(report.read_text("utf-8"))["num_resumed_tensors"] == num_kept


@pytest.mark.parametrize("num_tensors", [0, 1, 7, 38])
def test_finished_tensors_are_not_done_again(
    source: Path,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_tensors: int,
) -> None:
    """Resuming looks at what was finished and converts the rest alone; the report has all."""
    output = tmp_path / "out.gguf"
    stop_after(source, output, num_tensors, monkeypatch)
    seen: list[ConversionProgress] = []
    report = convert(source, output, type="q8_0", resume=True, progress=seen.append)
    assert sha256(output) == expected
    assert report.num_resumed_tensors == num_tensors
    names = [tensor.name for tensor in report.tensors]
    for stage, done in (("checking", names[:num_tensors]), ("converting", names[num_tensors:])):
        assert list(dict.fromkeys(e.tensor for e in seen if e.stage == stage)) == done
    whole = convert(source, tmp_path / "whole.gguf", type="q8_0")
    assert report.tensors == whole.tensors


def test_parts_are_resumed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split conversion shows no part under its name until all are whole, and resumes."""
    whole = convert(source, tmp_path / "a.gguf", type="q8_0", split_max_size=300_000)
    output = tmp_path / "b.gguf"
    stop_after(source, output, 20, monkeypatch, split_max_size=300_000)
    assert not [path for path in tmp_path.glob("b*") if path.suffix == ".gguf"]
    parts = convert(source, output, type="q8_0", split_max_size=300_000, resume=True)
    assert [sha256(path) for path in parts.files] == [sha256(path) for path in whole.files]


def test_resuming_after_the_last_step(
    source: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends while files are renamed is resumed too, and so is one that ends after."""
    output = tmp_path / "out.gguf"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "rename_files", interrupt)
        convert(source, output, type="q8_0")
    assert not output.exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "remove", interrupt)
        convert(source, output, type="q8_0", resume=True)
    assert output.exists()
    report = convert(source, output, type="q8_0", resume=True)
    assert report.num_resumed_tensors == len(report.tensors)
    assert sha256(output) == expected
    assert list(tmp_path.iterdir()) == [output]


def test_a_complete_file_that_is_gone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that says all is done does not stand for a file that somebody has taken away."""
    output = tmp_path / "out.gguf"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "rename_files", interrupt)
        convert(source, output, type="q8_0")
    writer.partial_path(output).unlink()
    with pytest.raises(ConversionError, match=r"out\.gguf: it is gone; .*without resume=True"):
        convert(source, output, type="q8_0", resume=True)


def test_a_changed_source_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of a finished tensor that has changed in the source refuses to be resumed."""
    copy, output = tmp_path / "copy.gguf", tmp_path / "out.gguf"
    copy.write_bytes(source.read_bytes())
    stop_after(copy, output, 5, monkeypatch)
    first = json.loads(journal_path(output).read_text().splitlines()[1])
    with pipeline.open_checkpoint(copy) as checkpoint:
        num_bytes = checkpoint.tensors[first["name"]].num_bytes
        data = checkpoint.tensors[first["name"]].rows(0, 1)
        start = copy.read_bytes().index(data.tobytes())
    with copy.open("r+b") as file:
        file.seek(start + num_bytes - 1)
        last = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ConversionError, match=rf"{first['name']} has changed.*without resume=True"):
        convert(copy, output, type="q8_0", resume=True)
    convert(copy, output, type="q8_0")
    assert output.exists()


def test_other_options_are_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion cannot be resumed with options that give other bytes; without resume it can."""
    output = tmp_path / "out.gguf"
    stop_after(source, output, 5, monkeypatch)
    for changed in ({"type": "q4_1", "pure": True}, {"type": "q8_0", "name": "Other"}):
        arguments: dict[str, Any] = changed
        with pytest.raises(ConversionError, match="options or source are not"):
            convert(source, output, resume=True, **arguments)
    report = convert(source, output, type="q8_0", resume=True)
    assert report.num_resumed_tensors == 5


def test_damage_to_what_was_written_is_repaired(
    source: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of a finished tensor that did not survive are written again."""
    output = tmp_path / "out.gguf"
    stop_after(source, output, 30, monkeypatch)
    partial = writer.partial_path(output)
    content = bytearray(partial.read_bytes())
    content[len(content) // 3] ^= 0xFF
    partial.write_bytes(content)
    report = convert(source, output, type="q8_0", resume=True)
    assert 0 < report.num_resumed_tensors < 30
    assert sha256(output) == expected
    stop_after(source, tmp_path / "gone.gguf", 30, monkeypatch)
    writer.partial_path(tmp_path / "gone.gguf").unlink()
    report = convert(source, tmp_path / "gone.gguf", type="q8_0", resume=True)
    assert report.num_resumed_tensors == 0
    assert sha256(report.path) == expected


@pytest.mark.parametrize(
    "content", [b"", b"{", b"not json\n", b"[1]\n", b'{"version": 1}\n', b'{"a": 1}\nnull\n']
)
def test_a_torn_journal_is_no_trap(
    source: Path, expected: str, tmp_path: Path, content: bytes
) -> None:
    """A journal without a whole line is no journal; one that is none of ours is an error."""
    output = tmp_path / "out.gguf"
    journal_path(output).write_bytes(content)
    if b"\n" in content:
        with pytest.raises(ConversionError, match="damaged"):
            convert(source, output, type="q8_0", resume=True)
    else:
        convert(source, output, type="q8_0", resume=True)
        assert sha256(output) == expected


def test_a_full_disk_keeps_what_is_finished(
    source: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full the error says so, and how many tensors --resume will find."""
    output = tmp_path / "out.gguf"
    real_write, num_calls = os.pwrite, 0

    def write(descriptor: int, data: Any, offset: int) -> int:
        nonlocal num_calls
        num_calls += 1
        if num_calls > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data, offset)

    with monkeypatch.context() as patch, pytest.raises(ConversionError) as failure:
        patch.setattr(os, "pwrite", write)
        convert(source, output, type="q8_0", num_threads=1)
    assert str(failure.value) == (
        f"{output}: No space left on device; 9 of 39 tensors are kept; "
        "call it again with resume=True to go on"
    )
    report = convert(source, output, type="q8_0", resume=True)
    assert report.num_resumed_tensors == 9
    assert sha256(output) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
@pytest.mark.parametrize("limit_bytes", [100, 20_000, 500_000])
def test_a_limit_of_the_system_is_one_line(
    source: Path, expected: str, tmp_path: Path, limit_bytes: int
) -> None:
    """A write that the system refuses, to the journal or the file, is one clear line."""
    import resource

    output = tmp_path / "out.gguf"
    # Python would leave bytecode that is cut off at the limit, for all who come later.
    command = [sys.executable, "-m", "edgellama", "convert", str(source), str(output)]
    result = subprocess.run(
        [*command, "--type", "q8_0"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"edgellama: error: {output}: ")
    assert "File too large" in line
    assert not output.exists()
    convert(source, output, type="q8_0", resume=True)
    assert sha256(output) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("ending", [".partial", ".partial.journal"])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "folder", "pipe"])
def test_nothing_is_written_through_a_link(
    kind: str, ending: str, source: Path, tmp_path: Path
) -> None:
    """What lies under the name of an unfinished file, and is none, is told and left alone."""
    output, target = tmp_path / "out.gguf", tmp_path / "target"
    place = tmp_path / f"out.gguf{ending}"
    if kind in ("link", "hard link"):
        target.write_text("precious", "ascii")
    if kind == "hard link":
        place.hardlink_to(target)
    elif kind.startswith("link"):
        place.symlink_to(target)
    elif kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConversionError, match=f"{ending}: is no file of a conversion"):
        convert(source, output)
    assert sorted(tmp_path.iterdir()) == before
    assert not target.exists() or target.read_text("ascii") == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_that_comes_before_a_file_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened is looked at itself, whatever lay there a moment before."""
    target, place = tmp_path / "target", tmp_path / "out.gguf.partial"
    target.write_text("precious", "ascii")
    place.hardlink_to(target)
    monkeypatch.setattr(own_file, "check_own_file", lambda path: None)
    with pytest.raises(ConversionError, match="is no file of a conversion"):
        own_file.open_own_file(place)
    assert target.read_text("ascii") == "precious"


def test_one_conversion_at_a_time(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second conversion to the same output is refused and does the first no harm."""
    output = tmp_path / "out.gguf"
    refusals = []

    def second(now: ConversionProgress) -> None:
        if not refusals:
            for resume in (False, True):
                with pytest.raises(ConversionError, match="another conversion is writing it") as e:
                    convert(source, output, type="q8_0", resume=resume)
                refusals.append(e)

    report = convert(source, output, type="q8_0", progress=second, verify=True)
    assert len(refusals) == 2
    assert report.is_verified


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_can_be_resumed(
    source: Path, expected: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C ends the command, says how to go on, and keeps what is finished."""
    output = tmp_path / "out.gguf"
    command = [sys.executable, "-c", STALLING_CLI]
    arguments = ["convert", str(source), str(output), "--type", "q8_0"]
    child = subprocess.Popen(
        [*command, "slow", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=accept_interrupts,
    )
    until(lambda: num_finished(output) > 2)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code
    if number == signal.SIGINT:
        assert "--resume goes on from here" in errors
    assert "Traceback" not in errors
    assert not output.exists()
    report = convert(source, output, type="q8_0", resume=True)
    assert report.num_resumed_tensors > 0
    assert sha256(output) == expected


def test_checksums_see_every_change() -> None:
    """Any changed, moved or missing byte gives another checksum, wherever it is."""
    from edgellama.convert.output.checksum import PIECE_WORDS, WORD_BYTES, chunk_checksum

    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (1, 2 * PIECE_WORDS * WORD_BYTES + 1003), np.uint8)
    seen = {chunk_checksum(rows)}
    places = [0, 7, 8, PIECE_WORDS * WORD_BYTES, *(rows.size - n for n in (1004, 4, 1))]
    for place in places:
        for bit in range(8):
            changed = rows.copy()
            changed[0, place] ^= 1 << bit
            seen.add(chunk_checksum(changed))
    words = rows[:, : 2 * PIECE_WORDS * WORD_BYTES].reshape(-1, WORD_BYTES)
    swapped = words.copy()
    swapped[[3, 900]] = swapped[[900, 3]]
    seen.add(chunk_checksum(swapped))
    seen.add(chunk_checksum(np.roll(words, PIECE_WORDS, axis=0)))
    seen |= {chunk_checksum(rows[:, : rows.size - n]) for n in range(1, 20)}
    assert len(seen) == 1 + 7 * 8 + 2 + 19
    assert chunk_checksum(rows) == chunk_checksum(rows.reshape(-1).copy().reshape(rows.shape))
