"""The cache of compiled kernels: damage, folders, and what a warm start imports."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from harness.cold_kernels import KERNEL, compiled, run_python
from harness.kernels import runner_of
from raw_files.elf_bytes import sample_object
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels, cache_folder
from edgellama.kernels_cpu.compiling.compile_worker import read_checked, write_checked
from edgellama.kernels_cpu.machine.cpu import GENERIC, select_tier
from edgellama.kernels_cpu.machine.user_cache import (
    CACHE_VARIABLE,
    cache_folders,
    folder_to_fill,
    temporary_root,
)
from edgellama.quant.errors import CacheError, KernelError
from edgellama.quant.gguf.file import GGUFFile


def test_cold_and_warm(empty_cache: Path) -> None:
    """The first use compiles and reports it, the second only loads and reports nothing."""
    progress: list[tuple[int, int]] = []
    assert compiled(progress)
    assert progress == [(0, 1), (1, 1)]
    assert [path.name for path in empty_cache.rglob("*.o")] == [f"{KERNEL}.o"]
    progress.clear()
    assert compiled(progress)
    assert progress == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_damaged_object(empty_cache: Path, damage: str) -> None:
    """A stored kernel that was damaged is compiled again, and the file repaired."""
    stored = runner_object()
    path = cache_folder(GENERIC) / f"{KERNEL}.o"
    path.parent.mkdir(parents=True)
    flipped = bytearray(stored)
    flipped[len(stored) // 2] ^= 1
    damaged = {
        "flip": bytes(flipped), "truncate": stored[:-1], "empty": b"", "text": b"x" * 4000,
    }[damage]  # fmt: skip
    path.write_bytes(damaged)
    assert read_checked(path) is None
    if damage == "flip":
        progress: list[tuple[int, int]] = []
        assert compiled(progress)
        assert progress == [(0, 1), (1, 1)]
        assert read_checked(path)


def test_stored_kernel_that_is_no_object(empty_cache: Path) -> None:
    """What has the right digest and is no kernel is compiled anew, like what is damaged."""
    folder = cache_folder(GENERIC)
    folder.mkdir(parents=True)
    path = folder / f"{KERNEL}.o"
    for content in (b"machine code", sample_object()):
        write_checked(path, content)
        progress: list[tuple[int, int]] = []
        assert compiled(progress)
        assert progress == [(0, 1), (1, 1)]


def runner_object() -> bytes:
    """A kernel's stored object, as bytes with its digest."""
    content = b"machine code" * 100
    folder = cache_folder(GENERIC).parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sample.o"
    write_checked(path, content)
    assert read_checked(path) == content
    return path.read_bytes()


def test_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves neither a new file nor a temporary one, and the old one whole."""
    path = tmp_path / "kernel.o"
    write_checked(path, b"old")

    def failing(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", failing)
    with pytest.raises(CacheError, match="disk full"):
        write_checked(path, b"new")
    assert read_checked(path) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kernel.o"]


def unusable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that cannot be made, and an empty folder for what is temporary."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "file" / "cache"


def test_unusable_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kernels of a cache that cannot be written go to a private folder, which is said once."""
    folder = unusable_cache(tmp_path, monkeypatch)
    progress: list[tuple[int, int]] = []
    assert compiled(progress)
    assert compiled(progress)
    assert progress == [(0, 1), (1, 1)]
    (temporary,) = (tmp_path / "temporary").iterdir()
    assert temporary.stat().st_mode & 0o077 == 0
    (record,) = caplog.records
    for text in (str(folder), str(temporary), "Not a directory", CACHE_VARIABLE):
        assert text in record.getMessage()


def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temporary folder is open to others too, the error names cache and variable."""
    folder = unusable_cache(tmp_path, monkeypatch)
    temporary_root().mkdir(mode=0o777)
    temporary_root().chmod(0o777)
    with pytest.raises(CacheError, match=rf"{folder}.*Not a directory.*{CACHE_VARIABLE}"):
        compiled()
    assert cache_folders("kernels") == [folder / "kernels"]


def test_full_disk(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an error that names the folder and two ways out, and nothing replaces it."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(CacheError, match=rf"{empty_cache}.*No space.*{CACHE_VARIABLE}"):
        folder_to_fill("kernels")


def test_old_code_is_dropped(empty_cache: Path) -> None:
    """A compilation drops folders that nothing was added to for a month, and no others."""
    old, recent = (empty_cache / "kernels" / name for name in ("generic-old", "generic-recent"))
    for folder, days in ((old, 31), (recent, 29)):
        folder.mkdir(parents=True)
        (folder / "kernel.o").write_bytes(b"code")
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    compiled()
    assert not old.exists()
    assert (recent / "kernel.o").exists()


def test_unknown_kernel(empty_cache: Path) -> None:
    """A kernel that cannot be compiled is a KernelError that says why and for which tier."""
    with pytest.raises(KernelError, match=r"generic(.|\n)*no_such_kernel"):
        compiled(name="no_such_kernel")


WARM_START = """
from edgellama import Llama
with Llama(sys.argv[1], num_threads=2, kv_type="f16", progress=print) as llama:
    found = llama.generate("Some text", max_tokens=3, temperature=0, ignore_eos=True)
heavy = {"numba", "llvmlite", "jinja2", "rich", "prompt_toolkit", "tiktoken", "sentencepiece"}
heavy |= {"asyncio", "ssl", "_hashlib", "subprocess", "numpy.random"}
print(len(found.tokens), sorted(heavy & set(sys.modules)))
"""


def test_warm_start_without_a_compiler(tmp_path: Path) -> None:
    """With a warm cache a model runs without a compiler, OpenSSL and the like, silently."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(weight_format="Q4_0"))
    with Engine(GGUFFile(path)) as engine:
        CompiledKernels(engine.tier).ensure(engine.usual_kernels())
    warm = run_python(WARM_START, str(path))
    assert warm.stdout == "3 []\n", warm.stdout + warm.stderr


def test_all_in_one_call_or_several() -> None:
    """Kernels asked for later join those that are loaded; repeated names cost nothing."""
    runner = runner_of(select_tier())
    runner.preload([KERNEL])
    address = runner.kernels.address(KERNEL)
    size = runner.kernels.code_bytes
    runner.kernels.ensure([KERNEL, KERNEL])
    assert runner.kernels.address(KERNEL) == address
    assert runner.kernels.code_bytes == size
    with pytest.raises(KeyError):
        runner.kernels.address("no_such_kernel")
