"""The key under which compiled kernels are found: everything that they depend on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from edgellama.kernels_cpu.compiling import code_cache
from edgellama.kernels_cpu.compiling.code_cache import cache_folder
from edgellama.kernels_cpu.compiling.source_hash import (
    BOUND_NAME,
    FORMATS_FILE,
    SOURCE_FOLDER,
    source_hash,
)
from edgellama.kernels_cpu.machine.cpu import GENERIC, TIERS
from edgellama.quant.errors import KernelError


def test_key_of_tiers(empty_cache: Path) -> None:
    """Each tier has a folder of its own, the same one every time."""
    folders = [cache_folder(tier) for tier in TIERS]
    assert len(set(folders)) == len(TIERS)
    assert folders == [cache_folder(tier) for tier in TIERS]
    assert all(folder.is_relative_to(empty_cache) for folder in folders)


def copy_sources(folder: Path) -> Path:
    """A copy of the kernels' sources, with the formats beside them."""
    copy = folder / "kernels_cpu"
    shutil.copytree(SOURCE_FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    formats = copy.parent / FORMATS_FILE
    formats.parent.mkdir()
    shutil.copy(SOURCE_FOLDER.parent / FORMATS_FILE, formats)
    return copy


def test_key_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any kernel source, also in one that others inline, or in the formats, changes
    the folder."""
    copy = copy_sources(tmp_path)
    monkeypatch.setattr(code_cache, "source_hash", lambda: source_hash(copy))
    before = cache_folder(GENERIC)
    monkeypatch.undo()
    assert cache_folder(GENERIC).name == before.name
    monkeypatch.setattr(code_cache, "source_hash", lambda: source_hash(copy))
    for name in (
        "simd/vectors.py",
        "matrices/gemv.py",
        "formats/blocks.py",
        "quantizers/scale_search.py",
        "../quant/formats.py",
    ):
        with (copy / name).open("a") as file:
            file.write("# changed\n")
        assert cache_folder(GENERIC) != before
        before = cache_folder(GENERIC)


def test_key_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sources the hash that was bound at build time counts; without it, an error."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert source_hash(tmp_path) is None
    (tmp_path / BOUND_NAME).write_text("abc\n", "ascii")
    assert source_hash(tmp_path) == "abc"
    folders = []
    for sources in ("abc", "abd"):
        monkeypatch.setattr(code_cache, "source_hash", lambda value=sources: value)
        folders.append(cache_folder(GENERIC))
    assert folders[0] != folders[1]
    monkeypatch.setattr(code_cache, "source_hash", lambda: None)
    with pytest.raises(KernelError, match=r"frozen without.*source_hash\.txt"):
        cache_folder(GENERIC)


def test_sources_count_more_than_a_bound_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sources lie they are hashed, whatever a wheel has bound; in a frozen application the
    bound hash counts, since only some of them may be there."""
    copy = copy_sources(tmp_path)
    (copy / BOUND_NAME).write_text("abc", "ascii")
    assert source_hash(copy) == source_hash() != "abc"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert source_hash(copy) == "abc"


def test_key_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of LLVM or of Numba, or another system, changes the folder."""
    before, real = cache_folder(GENERIC), code_cache._package_version
    for module, name, value in (
        (code_cache, "_package_version", lambda name: "0.0" if name == "llvmlite" else real(name)),
        (code_cache, "_package_version", lambda name: "0.0" if name == "numba" else real(name)),
        (code_cache, "system_name", lambda: "other-system"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert cache_folder(GENERIC) != before
    assert cache_folder(GENERIC) == before
