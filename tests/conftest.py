"""Fixtures that several test modules share: the starter model and the command in a process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from own_folders import use_own_cache, use_own_folders

from edgellama.models import well_known
from edgellama.models.pulling import pull

if TYPE_CHECKING:
    import httpx
    from harness.servers import RunningServer

pytest_plugins = ("whole_run",)
# Hundreds of processes are started, each of which would compile all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
KERNELS = use_own_cache() / "kernels"
"""Those of all runs, whatever cache a test has."""
ALLOCATIONS_BETWEEN_SEARCHES = 10_000
settings.register_profile("usual", max_examples=30, deadline=None)
# --hypothesis-profile=thorough
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("usual")
CliRunner = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_finish() -> None:
    """All tests and modules stay until the end: no search for garbage need go through them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS_BETWEEN_SEARCHES)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Folders of this run for what programs keep and for temporary files."""
    with pytest.MonkeyPatch.context() as patch:
        kept, temporary = (tmp_path_factory.mktemp(name) for name in ("kept", "temporary"))
        use_own_folders(kept, temporary, patch)
        yield


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real starter model, pulled into the cache of tests once."""
    return pull(well_known.STARTER_MODEL)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a chat template and a context of 256 tokens."""
    from reference.tiny_models import TinyLlama, write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", TinyLlama())


@pytest.fixture(scope="session")
def code_llama_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Code Llama with random weights, converted from Hugging Face's files."""
    from reference.family import MEMBERS

    from edgellama.convert import convert

    folder = tmp_path_factory.mktemp("code-llama")
    member = next(member for member in MEMBERS if member.name == "code-llama")
    convert(member.write(folder / "checkpoint"), folder / "model.gguf", type="f32")
    return folder / "model.gguf"


@pytest.fixture
def stalling_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """pip, here and in processes that are started, knows an index that stalls in the middle."""
    from doubles.stalling_index import running_index

    with running_index() as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        yield


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the tiny model alone, with files of its own."""
    from harness.servers import running_server

    from edgellama.server.settings import ServerSettings

    store = tmp_path_factory.mktemp("store") / "responses.sqlite"
    settings = ServerSettings(models={"tiny": tiny_path}, only_given=True, store=store)
    with running_server(settings) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of the server."""
    with server.client() as client:
        yield client


def keep_kernels(folder: Path) -> Path:
    """Make an empty cache folder in which all kernels are compiled that the tests' own has."""
    folder.mkdir()
    (folder / "kernels").symlink_to(KERNELS)
    return folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, which is not there yet, and an empty one for what is temporary.

    For this process and those that it starts, so that nothing is found which lies about.
    """
    folder, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("EDGELLAMA_CACHE", str(folder))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return folder


@pytest.fixture
def run_cli(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> CliRunner:
    """Run ``edgellama`` with arguments in a process of its own, in an empty folder.

    Temporary files have a folder of their own, so that none that lies about is found.
    """

    def run(
        *arguments: str | os.PathLike[str],
        text_input: str | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 600.0,
    ) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        own = {"PYTHONUTF8": "1", "TMPDIR": str(tmp_path_factory.mktemp("temporary"))}
        return subprocess.run(
            [sys.executable, "-m", "edgellama", *arguments],
            input=text_input,
            stdin=subprocess.DEVNULL if text_input is None else None,
            capture_output=True,
            encoding="utf-8",
            cwd=folder,
            env={**os.environ, **own, **(environment or {})},
            timeout=timeout_s,
            check=False,
        )

    return run
