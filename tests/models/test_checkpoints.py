"""Converted checkpoints in the cache: made once, found again, made anew when the source changes."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import keep_kernels
from reference.tiny_models import TinyLlama, write_tiny_llama

import edgellama.convert
from edgellama import Llama
from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE, cache_root
from edgellama.models.checkpoints import CONVERTED_FOLDER, converted
from edgellama.quant.errors import (
    ConversionError,
    InvalidOptionError,
    ModelNotFoundError,
    ResumeError,
)


class FakeConverter:
    """Takes a while, counts how often it is called, and writes what it was told."""

    def __init__(self) -> None:
        self.types: list[str] = []

    def __call__(self, source: Path, output: Path, **options: Any) -> None:
        self.types.append(options["type"])
        time.sleep(0.05)
        weights = sorted(source.glob("*.safetensors"))[0] if source.is_dir() else source
        output.write_bytes(weights.read_bytes() + options["type"].encode())


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeConverter:
    """In place of the real one; the cache has nothing but kernels."""
    monkeypatch.setenv(CACHE_VARIABLE, str(keep_kernels(tmp_path / "cache")))
    fake = FakeConverter()
    monkeypatch.setattr(edgellama.convert, "convert", fake, raising=False)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a checkpoint from outside."""
    path = tmp_path / "Tiny-Llama"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "config.json").write_text("{}")
    return path


def converted_folder() -> Path:
    """Where converted models lie."""
    return cache_root() / CONVERTED_FOLDER


def cached_files() -> list[Path]:
    """Everything under the folder of converted models that is a model."""
    return sorted(path for path in converted_folder().rglob("*") if path.suffix == ".gguf")


def test_a_source_is_converted_once(converter: FakeConverter, folder: Path) -> None:
    """The second call finds the file of the first, however the folder and type are written."""
    first = converted(folder, "q4_0")
    assert first.read_bytes() == b"weightsq4_0"
    assert first.name.startswith("Tiny-Llama-q4_0-")
    assert converted(str(folder / ".." / folder.name), "Q4_0") == first
    assert converter.types == ["q4_0"]
    assert cached_files() == [first]


def test_types_live_side_by_side(converter: FakeConverter, folder: Path) -> None:
    """Another type is another file, and both stay."""
    files = {converted(folder, name) for name in ("q4_0", "q8_0")}
    assert set(cached_files()) == files
    assert len(files) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_source_is_converted_anew(
    converter: FakeConverter, folder: Path, name: str
) -> None:
    """A new size or time of any file makes a new file, and all earlier ones are removed."""
    earlier = [converted(folder, "q4_0"), converted(folder, "q8_0")]
    status = (folder / name).stat()
    os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    (earlier[0].parent / f"{earlier[0].name}.partial").touch()
    later = converted(folder, "q4_0")
    assert later not in earlier
    assert {path.name for path in later.parent.iterdir()} == {"lock", "source", later.name}
    with open(folder / name, "a") as file:
        file.write("more")
    os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert converted(folder, "q4_0") != later
    assert len(converter.types) == 4


def test_files_of_no_interest_change_nothing(converter: FakeConverter, folder: Path) -> None:
    """A new README does not make the conversion stale."""
    first = converted(folder, "q4_0")
    (folder / "README.md").touch()
    assert converted(folder, "q4_0") == first


def test_sources_of_one_name_do_not_mix(
    converter: FakeConverter, folder: Path, tmp_path: Path
) -> None:
    """Two folders that are called alike have their own files."""
    other = tmp_path / "other" / folder.name
    shutil.copytree(folder, other)
    assert converted(folder, "q4_0") != converted(other, "q4_0")
    assert len(cached_files()) == 2


def test_a_gguf_file_is_requantized(converter: FakeConverter, tmp_path: Path) -> None:
    """A path of a GGUF file, or of the folder that holds it alone, is a source too."""
    path = tmp_path / "models" / "tiny.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    first = converted(path, "q5_k_m")
    assert first.read_bytes() == b"GGUFq5_k_m"
    assert converted(path.parent, "q5_k_m") == first


def test_two_at_once_convert_once(converter: FakeConverter, folder: Path) -> None:
    """Who comes while another converts waits for its file."""
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(converted(folder, "q4_0"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert converter.types == ["q4_0"]


def test_a_failure_is_not_a_model(
    converter: FakeConverter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that fails half way makes no model, and the next call tries again."""

    def fail(source: Path, output: Path, **options: Any) -> None:
        output.with_name(output.name + ".partial").write_bytes(b"half")
        raise ConversionError("the disk is full")

    monkeypatch.setattr(edgellama.convert, "convert", fail)
    with pytest.raises(ConversionError, match="the disk is full"):
        converted(folder, "q4_0")
    assert cached_files() == []
    monkeypatch.setattr(edgellama.convert, "convert", converter)
    assert converted(folder, "q4_0").read_bytes() == b"weightsq4_0"


def test_a_failure_that_wrote_nothing_leaves_nothing(
    converter: FakeConverter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder goes, unless models of before are in it; who waits then converts all the same."""
    waiting = threading.Thread(target=lambda: converted(folder, "q8_0"))

    def fail(source: Path, output: Path, **options: Any) -> None:
        monkeypatch.setattr(edgellama.convert, "convert", converter)
        if not waiting.ident:
            waiting.start()
            time.sleep(0.05)
        raise ConversionError("no such architecture")

    monkeypatch.setattr(edgellama.convert, "convert", fail)
    with pytest.raises(ConversionError, match="no such architecture"):
        converted(folder, "q4_0")
    waiting.join()
    assert [path.name.split("-")[2] for path in cached_files()] == ["q8_0"]
    shutil.rmtree(converted_folder())
    monkeypatch.setattr(edgellama.convert, "convert", fail)
    with pytest.raises(ConversionError, match="no such architecture"):
        converted(folder, "q4_0")
    assert not converted_folder().exists()


def test_what_cannot_be_resumed_is_begun_again(
    converter: FakeConverter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished conversion that does not fit any more does not stand in the way."""

    def refuse(source: Path, output: Path, **options: Any) -> None:
        if options.pop("resume", False):
            raise ResumeError("damaged")
        converter(source, output, **options)

    monkeypatch.setattr(edgellama.convert, "convert", refuse)
    assert converted(folder, "q4_0").read_bytes() == b"weightsq4_0"


def test_unknown_types_and_sources_are_refused(converter: FakeConverter, tmp_path: Path) -> None:
    """Nothing is written for a type or a model that does not exist."""
    with pytest.raises(InvalidOptionError, match=r"no type is called '../q4_0'; allowed: "):
        converted(tmp_path, "../q4_0")
    with pytest.raises(ModelNotFoundError, match="nowhere: no such file"):
        converted(tmp_path / "nowhere", "q4_0")
    with pytest.raises(ModelNotFoundError, match="it holds: none"):
        converted(tmp_path, "q4_0")
    assert not converted_folder().exists()


def test_llama_takes_a_checkpoint_only_with_a_type(
    converter: FakeConverter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``quantize`` the error names the ways out; with it the converted file is loaded."""
    with pytest.raises(ModelNotFoundError, match=r"Llama\('.*', quantize=\"q4_k_m\"\)"):
        Llama(folder)
    model = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama())
    monkeypatch.setattr(
        edgellama.convert, "convert", lambda source, output, **options: shutil.copy(model, output)
    )
    with Llama(folder, quantize="q8_0") as llama:
        assert llama.config.embedding_length == 64
    assert len(cached_files()) == 1
