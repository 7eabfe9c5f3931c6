"""Model files that are cut or written to while they are open: errors, and no end of the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from raw_files.gguf_bytes import ARRAY, model, pair, strings
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama, ModelFileError
from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.mapped_file import FileMapping

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be cut there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model's file, written a while ago."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(context_length=256))
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def llama(path: Path) -> Iterator[Llama]:
    """The model of this file, which has generated a text."""
    with Llama(path, num_threads=2) as llama:
        llama.generate("Hello", max_tokens=2)
        yield llama


def cut(path: Path) -> None:
    """Make a file empty, as whoever writes another one over it does first."""
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    """Write other bytes into a file, as many as it had."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("harm", [cut, overwrite])
def test_no_step_reads_a_file_that_was_written_to(
    llama: Llama, path: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Texts, also one that runs, end with an error that names the file; closing is fine."""
    session = llama.session()
    stream = session.stream("Once upon", max_tokens=100, ignore_eos=True)
    next(stream)
    harm(path)
    for use in (
        lambda: list(stream),
        lambda: llama.generate("Hello", max_tokens=2),
        lambda: llama.score("Hello", "there"),
        lambda: session.save(tmp_path / "a.session"),
        llama.read_speed,
    ):
        with pytest.raises(ModelFileError, match=r"tiny\.gguf: .*written to or cut.* anew"):
            use()
    llama.unload()
    with pytest.raises(ModelFileError):
        llama.generate("Hello", max_tokens=2)
    llama.close()


def test_a_token_alone_does_not_read_it(path: Path) -> None:
    """The next token of a sequence, whose step is the last one again, asks for the file too."""
    with GGUFFile(path) as file, Engine(file, num_threads=1) as engine:
        cache = engine.new_cache()
        engine.forward([5], cache)
        engine.forward([6], cache)
        cut(path)
        with pytest.raises(ModelFileError, match="written to or cut"):
            engine.forward([7], cache)
        assert list(cache.tokens) == [5, 6]


def test_a_file_that_is_closed_is_watched_too(path: Path) -> None:
    """An engine asks for the weights that it reads, whoever has closed the file."""
    with GGUFFile(path) as file:
        engine = Engine(file, num_threads=1)
    with engine:
        engine.forward([5], cache := engine.new_cache())
        cut(path)
        with pytest.raises(ModelFileError, match="written to or cut"):
            engine.forward([6], cache)


def test_each_step_looks(llama: Llama, path: Path) -> None:
    """A file that is touched and then cut between two tokens of a fast text ends that text."""
    stream = llama.session().stream("Once upon", max_tokens=100, ignore_eos=True)
    for _ in range(20):
        next(stream)
    os.utime(path)
    next(stream)
    os.truncate(path, 4096)
    with pytest.raises(ModelFileError, match="written to or cut"):
        next(stream)


def test_what_does_not_touch_the_file_is_no_harm(llama: Llama, path: Path, tmp_path: Path) -> None:
    """A new file in its place, a new name or another time leave the model usable."""
    os.link(path, tmp_path / "link.gguf")
    stream = llama.session().stream("Once upon", max_tokens=8, ignore_eos=True)
    next(stream)
    os.utime(path)
    for _ in stream:
        pass
    assert len(stream.result.tokens) == 8
    llama.unload()
    llama.generate("Hello", max_tokens=2)
    llama.unload()
    os.utime(path, (1e9, 1e9))
    llama.generate("Hello", max_tokens=2)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(path)
    llama.generate("Hello", max_tokens=2)
    (tmp_path / "link.gguf").unlink()
    assert llama.generate("Hello", max_tokens=2).tokens


@pytest.mark.parametrize("num_reads", range(4))
def test_a_header_that_is_cut_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_reads: int
) -> None:
    """A file that ends sooner than when it was opened is refused, wherever the reader was."""
    words = [f"word {number}" for number in range(30_000)]
    path = tmp_path / "tiny.gguf"
    path.write_bytes(model([pair("tokenizer.ggml.tokens", ARRAY, strings(words))]))
    read_at, reads = FileMapping.read_at, []

    def read_late(mapping: FileMapping, offset: int, num_bytes: int) -> bytes:
        reads.append(offset)
        if len(reads) == num_reads + 1:
            os.truncate(path, 20)
        return read_at(mapping, offset, num_bytes)

    monkeypatch.setattr(FileMapping, "read_at", read_late)
    with pytest.raises(ModelFileError, match=r"tiny\.gguf: was cut to 20 bytes while it was read"):
        GGUFFile(path)
    assert len(reads) == num_reads + 1


def test_a_drive_that_fails_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says when a header cannot be read is an error that names the file."""

    def fail(*given: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", fail)
    with pytest.raises(ModelFileError, match=r"tiny\.gguf: cannot be read, .*Input/output error"):
        GGUFFile(path)
