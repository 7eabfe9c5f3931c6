"""What the cache holds: its models, when they were used, and what can be cleaned."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from conftest import keep_kernels
from platformdirs import user_cache_path
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.convert.output.file_lock import try_lock
from edgellama.kernels_cpu.machine.user_cache import cache_root
from edgellama.llama import Llama
from edgellama.models import checkpoints, cleaning, library, usage
from edgellama.models.facts import read_facts
from edgellama.quant.errors import ModelNotFoundError

NOTES = ".cache/huggingface/download"


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    """Whatever the user has, a test's cache is its own."""
    return empty_cache


def fill(path: Path, num_bytes: int = 1, age_seconds: float = 0) -> Path:
    """A file of so many bytes that was written so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(num_bytes))
    then = time.time() - age_seconds
    for changed in (path, path.parent):
        os.utime(changed, (then, then))
    return path


def names_below(folder: Path) -> list[str]:
    """Files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere platformdirs is asked")
@pytest.mark.parametrize("variables", [{}, {"XDG_CACHE_HOME": "/a/b"}, {"XDG_CACHE_HOME": "c"}])
def test_the_cache_folder_is_that_of_platformdirs(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux the cache's folder is found without platformdirs, and is the same."""
    for name in ("EDGELLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_root() == user_cache_path("edgellama", appauthor=False)


def test_models_of_all_origins(cache: Path) -> None:
    """Pulled, placed and converted models are told apart, and parts add up to one."""
    fill(cache / "models" / "mine.gguf", 10)
    for number in (1, 2):
        fill(cache / "models" / "hf" / "me" / "big" / f"big-{number:05d}-of-00002.gguf", 20)
    converted = fill(cache / "converted" / "Tiny-abc" / "Tiny-q4_0-0123.gguf", 30)
    (converted.parent / "source").write_text("/somewhere/Tiny")
    found = {model.name: (model.num_bytes, model.origin) for model in library.stored_models()}
    assert found == {
        "mine": (10, "put there by hand"),
        "hf:me/big:big-00001-of-00002.gguf": (40, "hf:me/big:big-00001-of-00002.gguf"),
        "Tiny-q4_0": (30, "converted from /somewhere/Tiny"),
    }


def test_removal_leaves_nothing(cache: Path) -> None:
    """A removed model takes its parts, its notes and empty folders along, and nothing else."""
    other = fill(cache / "models" / "hf" / "me" / "other" / "o.gguf")
    folder = cache / "models" / "hf" / "me" / "big"
    for number in (1, 2):
        part = fill(folder / f"big-{number:05d}-of-00002.gguf", 20)
        fill(folder / NOTES / f"{part.name}.metadata")
    kept = fill(folder / "small.gguf", 5)
    usage.note_use(folder / "big-00001-of-00002.gguf")
    assert library.remove(library.find_stored("hf:me/big:big")) == 40
    assert names_below(cache / "models" / "hf") == ["me/big/small.gguf", "me/other/o.gguf"]
    assert library.remove(library.find_stored(str(kept))) == 5
    assert not folder.exists()
    assert other.exists()


def test_what_is_not_in_the_cache_is_left_alone(tmp_path: Path, cache: Path) -> None:
    """A path elsewhere, or an unknown name, is an error that says so."""
    fill(cache / "models" / "mine.gguf")
    elsewhere = fill(tmp_path / "mine.gguf")
    with pytest.raises(ModelNotFoundError, match=r"mine\.gguf is not in the cache"):
        library.find_stored(str(elsewhere))
    with pytest.raises(ModelNotFoundError, match=r"no model called 'yours'; it holds: mine$"):
        library.find_stored("yours")


def test_same_name_twice(cache: Path) -> None:
    """Two conversions of one name are told apart by their paths."""
    for folder in ("a", "b"):
        fill(cache / "converted" / folder / "Tiny-q4_0-0123.gguf")
    with pytest.raises(ModelNotFoundError, match=r"several models.*a/Tiny.*b/Tiny"):
        library.find_stored("Tiny-q4_0")
    path = cache / "converted" / "a" / "Tiny-q4_0-0123.gguf"
    assert library.find_stored(str(path)).path == path


def test_loading_is_a_use(cache: Path, tmp_path: Path) -> None:
    """Whoever loads a model of the cache leaves the time beside it; elsewhere nothing is left."""
    keep_kernels(cache)
    for folder, expected in ((cache / "models", ["tiny.gguf", "tiny.gguf.used"]), (tmp_path, None)):
        folder.mkdir(exist_ok=True, parents=True)
        path = write_tiny_llama(folder / "tiny.gguf", TinyLlama())
        assert usage.last_use(path) is None
        with Llama(path, num_threads=1):
            pass
        if expected is None:
            assert usage.last_use(path) is None
        else:
            assert names_below(folder) == expected
            last_use = usage.last_use(path)
            assert last_use is not None and abs(last_use - time.time()) < 60
            (model,) = library.stored_models()
            assert model.last_use == last_use


def test_facts(tmp_path: Path) -> None:
    """The type is the file's own word, or the format of most bytes where it says none."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(context_length=1000))
    facts = read_facts(path)
    assert (facts.architecture, facts.context_length) == ("llama", 1000)
    assert facts.type in ("f32", "f16", "q4_0")
    assert facts.license is None


def test_old_kernels(cache: Path) -> None:
    """Code of other versions goes, that of this one stays."""
    fill(cache / "kernels" / "generic-old" / "gemv.o", 7)
    fill(cache / "kernels" / "generic-new" / "gemv.o", 7)
    (old,) = cleaning.find_leftovers(["kernels"], {"generic-new"})
    assert (old.path, old.num_bytes) == (cache / "kernels" / "generic-old", 7)
    cleaning.remove_leftover(old)
    assert names_below(cache) == ["kernels/generic-new/gemv.o"]


def test_conversions_but_not_running_ones(cache: Path) -> None:
    """Converted models can go, unless a process is at it."""
    idle = fill(cache / "converted" / "idle" / "Tiny-q4_0-0123.gguf", 3).parent
    busy = fill(cache / "converted" / "busy" / checkpoints.LOCK_NAME).parent
    with open(busy / checkpoints.LOCK_NAME, "rb+") as file:
        assert try_lock(file.fileno())
        assert [found.path for found in cleaning.find_leftovers(["converted"], ())] == [idle]
    found = cleaning.find_leftovers(["converted"], ())
    assert {leftover.path for leftover in found} == {idle, busy}


def test_partial_downloads_but_not_running_ones(cache: Path) -> None:
    """What a download left is found once it has been quiet for a while; models are not."""
    models = cache / "models"
    hub = models / "hf" / "me" / "mine"
    fill(models / "mine.gguf", age_seconds=10_000)
    fill(hub / "small.gguf", age_seconds=10_000)
    fill(models / ".partial-running" / "x.whl")
    fill(hub / NOTES / "running.incomplete")
    old = {
        fill(models / ".partial-old" / "x.whl", 5, age_seconds=10_000).parent,
        fill(hub / NOTES / "old.incomplete", 6, age_seconds=10_000),
    }
    os.utime(hub / NOTES / "running.incomplete")
    assert {found.path for found in cleaning.find_leftovers(["downloads"], ())} == old
