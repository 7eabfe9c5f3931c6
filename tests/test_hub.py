"""Models that come from the hub, with a client that the tests provide."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cache_files import everything_below, files_below, touch

from edgellama.models import hub as hub_download
from edgellama.models import names, well_known
from edgellama.models.pulling import pull
from edgellama.quant.errors import CacheError, DownloadError, InvalidOptionError


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    """Whatever the user has, a test's cache is its own."""
    return empty_cache


def test_a_hubs_client_is_stopped_within_a_file(
    hub: SimpleNamespace, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it takes a progress bar, the bar ends it."""
    updates = []

    class Bar:
        def update(self, n: float = 1) -> None:
            updates.append(n)

    def hf_hub_download(*, tqdm_class: type[Bar] | None = None, **_: Any) -> str:
        bar = (tqdm_class or Bar)()
        for _ in range(10):
            bar.update(1)
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", SimpleNamespace(tqdm=Bar))
    with pytest.raises(DownloadError, match=r"me/mine.* was cancelled"):
        pull("hf:me/mine:small-Q8_0.gguf", cancelled=lambda: len(updates) == 3)
    assert len(updates) == 3 and files_below(cache) == []


HUB_FILES = {
    "small-Q4_K_M.gguf": 11,
    "small-Q8_0.gguf": 12,
    "big/big-Q8_K-00001-of-00002.gguf": 13,
    "big/big-Q8_K-00002-of-00002.gguf": 14,
    "README.md": 15,
}


class HubError(Exception):
    """Stands for an error class of the hub client, found by its name."""


class GatedRepoError(HubError):
    """The hub's refusal before a licence is accepted."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module in the place of ``huggingface_hub`` that writes files of the stated sizes."""
    fetched: list[str] = []

    class HfApi:
        def model_info(self, repo_id: str, *, files_metadata: bool) -> SimpleNamespace:
            assert files_metadata
            if repo_id == "me/gated":
                raise GatedRepoError("403 Client Error\nmore")
            files = HUB_FILES if repo_id == "me/mine" else {"README.md": 1}
            entries = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
            return SimpleNamespace(siblings=entries)

    def hf_hub_download(
        *, repo_id: str, filename: str, local_dir: str, force_download: bool
    ) -> str:
        fetched.append(filename)
        path = touch(Path(local_dir) / filename)
        path.write_bytes(bytes(HUB_FILES[filename]))
        return str(path)

    module = SimpleNamespace(HfApi=HfApi, hf_hub_download=hf_hub_download, fetched=fetched)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_hub_file_is_stored_under_its_repository(hub: SimpleNamespace, cache: Path) -> None:
    """An exact file name or a fragment fetches that file once and resolves afterwards."""
    path = pull("hf:me/mine:small-Q8_0.gguf")
    assert path == cache / "models" / "hf" / "me" / "mine" / "small-Q8_0.gguf"
    assert pull("hf:me/mine:q8_0") == path
    assert hub.fetched == ["small-Q8_0.gguf"]
    assert names.resolve("hf:me/mine") == path
    assert names.pulled_models() == {"hf:me/mine:small-Q8_0.gguf": path}


def test_split_hub_model_is_fetched_whole(hub: SimpleNamespace) -> None:
    """Every part is fetched; one that is missing later is fetched again."""
    first = pull("hf:me/mine:q8_k")
    assert first.name == "big-Q8_K-00001-of-00002.gguf"
    assert len(hub.fetched) == 2
    assert names.resolve("hf:me/mine:q8_k") == first
    names.split_parts(first)[1].unlink()
    pull("hf:me/mine:q8_k")
    assert len(hub.fetched) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/mine", r"several GGUF files.*big-Q8_K-00001.*small-Q4_K_M\.gguf, small-Q8_0\.gguf"),
        ("hf:me/mine:q2", r"fits no GGUF file; name one of"),
        ("hf:me/empty", "holds no GGUF file"),
        ("hf:me/gated", r"403 Client Error; accept its licence at .*huggingface\.co/me/gated"),
    ],
)
def test_hub_errors_say_what_to_do(
    hub: SimpleNamespace, cache: Path, name: str, message: str
) -> None:
    """An unclear or refused reference is a DownloadError on one line, and leaves no folder."""
    with pytest.raises(DownloadError, match=message) as caught:
        pull(name)
    assert "\n" not in str(caught.value)
    assert everything_below(cache) == []


def test_hub_extra_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for name in ("hf:me/mine:small-Q8_0.gguf", "llama3.2:1b"):
        with pytest.raises(DownloadError, match=r"^hf:.* -m pip install huggingface_hub$"):
            pull(name)


@pytest.mark.parametrize(
    "text", ["hf:", "hf:me", "hf:me/../x", "hf:me/mine:../x.gguf", "hf:me/mine:/etc/x", "hf:a/b/c"]
)
def test_malformed_hub_references_are_refused(text: str) -> None:
    """A reference that is not OWNER/REPO, or would leave its folder, is an InvalidOptionError."""
    with pytest.raises(InvalidOptionError, match="hf:OWNER/REPO"):
        well_known.parse_hub_reference(text)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("https://huggingface.co/me/mine", "give hf:me/mine"),
        ("https://huggingface.co/me/mine/tree/main", "give hf:me/mine"),
        ("hf.co/me/mine/blob/main/small-Q8_0.gguf", "give hf:me/mine:small-Q8_0.gguf"),
        (
            "https://huggingface.co/me/mine/resolve/main/q8/a.gguf?download=true",
            "give hf:me/mine:q8/a.gguf",
        ),
        ("https://example.com/a.gguf", "download it and give its path"),
    ],
)
def test_addresses_are_refused_with_advice(address: str, advice: str) -> None:
    """Who gives an address in the web is told what means the same, by models and by pull."""
    for take in (names.resolve, pull):
        with pytest.raises(InvalidOptionError, match=f"is an address in the web; {advice}$"):
            take(address)


def test_models_of_the_temporary_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: SimpleNamespace
) -> None:
    """Where the cache cannot be written to, a model is kept elsewhere and found again."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGELLAMA_CACHE", str(tmp_path / "file" / "cache"))
    path = pull("hf:me/mine:q8_0")
    assert path.is_relative_to(tmp_path / "temporary")
    assert pull("hf:me/mine:q8_0") == path
    assert hub.fetched == ["small-Q8_0.gguf"]
    assert names.pulled_models() == {"hf:me/mine:small-Q8_0.gguf": path}


def test_full_disk_is_told(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is or becomes full is an error with the folder and what to do."""

    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "hf_hub_download", full)
    with pytest.raises(CacheError, match=r"me/mine cannot be written: No space.*EDGELLAMA_CACHE"):
        pull("hf:me/mine:q8_0")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=11))
    with pytest.raises(DownloadError, match=r"me/mine has 0 MB free.*EDGELLAMA_CACHE"):
        pull("hf:me/mine:q8_0")


def test_choose_file_prefers_the_exact_name() -> None:
    """A file whose name is a fragment of another's can still be named."""
    reference = well_known.HubReference("me/mine", "a.gguf")
    assert hub_download.choose_file(reference, ["a.gguf", "xa.gguf"]) == ["a.gguf"]
