"""Models that come from the hub, by its real client and from a hub that the tests provide."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from cache_files import everything_below, files_below
from doubles.fake_hub import COMMIT, TOKEN, FakeHub, running_hub

from edgellama.models import hub as hub_download
from edgellama.models import model_files, names, well_known
from edgellama.models.pulling import pull
from edgellama.quant.errors import CacheError, DownloadError, InvalidOptionError, ModelNotFoundError


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    """Whatever the user has, a test's cache is its own."""
    return empty_cache


HUB_FILES = {
    "small-Q4_K_M.gguf": 11,
    "small-Q8_0.gguf": 12,
    "small-Q6_K.gguf": 16,
    "small-Q6_K_L.gguf": 17,
    "big/big-Q8_K-00001-of-00002.gguf": 13,
    "big/big-Q8_K-00002-of-00002.gguf": 14,
    "README.md": 15,
}
LARGE_BYTES = 3 << 20


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of files of the stated sizes, which the real client asks."""
    files = {name: os.urandom(size) for name, size in HUB_FILES.items()}
    with running_hub(FakeHub(files | {"large.gguf": os.urandom(LARGE_BYTES)})) as hub:
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 18)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield hub


def fetched(hub: FakeHub) -> list[str]:
    """Names of the files that were sent."""
    return [path.partition(f"/resolve/{COMMIT}/")[2] for path, _ in hub.downloads]


@pytest.mark.parametrize(
    "name",
    [
        "../../out.gguf",
        "/out.gguf",
        "a/../../../out.gguf",
        "a\\..\\out.gguf",
        "a//b.gguf",
        "C:/out.gguf",
        "C:out.gguf",
    ],
)
def test_paths_that_lead_out_of_the_repository(name: str, hub: FakeHub, cache: Path) -> None:
    """A mirror's list cannot have anything written beside the model's folder."""
    hub.files = {name: b"GGUF"}
    with pytest.raises(DownloadError, match=r"lists a file .*allowed: paths within the repository"):
        pull("hf:me/mine:out")
    assert list(files_below(cache.parent)) == [] and fetched(hub) == []


def test_a_hubs_client_is_stopped_within_a_file(hub: FakeHub, cache: Path) -> None:
    """Who wants a file no more ends its download, and goes on with it later."""
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) == 6

    with pytest.raises(DownloadError, match=r"me/mine.* was cancelled"):
        pull("hf:me/mine:large", cancelled=cancelled)
    (partial,) = (path for path in files_below(cache) if path.name != "lock")
    there = partial.stat().st_size
    assert 0 < there < LARGE_BYTES
    assert pull("hf:me/mine:large").read_bytes() == hub.files["large.gguf"]
    assert hub.downloads[-1][1] == f"bytes={there}-"


def test_a_broken_download_goes_on_where_it_ended(hub: FakeHub, cache: Path) -> None:
    """When a connection breaks again and again, what came is kept for the next call."""
    hub.cut = [1 << 20] + [0] * 20
    progress: list[tuple[int, int]] = []
    with pytest.raises(DownloadError, match="run it again: it goes on where it stopped"):
        pull("hf:me/mine:large")
    hub.cut = []
    path = pull("hf:me/mine:large", progress=lambda *now: progress.append(now))
    assert path.read_bytes() == hub.files["large.gguf"]
    assert {total for _, total in progress} == {LARGE_BYTES - (1 << 20)}
    assert [file.name for file in files_below(cache)] == ["large.gguf", "lock"]


def test_what_is_not_the_hubs_file_is_not_kept(hub: FakeHub, cache: Path) -> None:
    """What an earlier attempt left is damaged: an error that says so, and then a whole file."""
    hub.cut = [1 << 20] + [0] * 20
    with pytest.raises(DownloadError):
        pull("hf:me/mine:large")
    (partial,) = cache.glob("models/hf/me/mine/*.partial")
    partial.write_bytes(bytes(1 << 20))
    hub.cut = []
    with pytest.raises(DownloadError, match=r"has SHA-256 .*expected .*run it again"):
        pull("hf:me/mine:large")
    assert pull("hf:me/mine:large").read_bytes() == hub.files["large.gguf"]


def test_a_gated_repository_is_for_those_with_a_token(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one the error says what to do, however the file is asked for."""
    hub.is_gated = True
    for force in (False, True):
        with pytest.raises(DownloadError, match=r"licence.*/me/mine; .*`hf auth login`"):
            pull("hf:me/mine:q8_0", force=force)
    assert everything_below(cache) == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert pull("hf:me/mine:q8_0").name == "small-Q8_0.gguf"


def test_offline_a_pulled_model_is_found(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """The hub is not asked for what is there; for all else the error says what forbids it."""
    path = pull("hf:me/mine:q8_0")
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_OFFLINE", True)
    assert pull("hf:me/mine:q8_0") == path
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        pull("hf:me/mine:q8_k")


def test_a_checkpoint_is_told_from_a_repository_of_nothing(hub: FakeHub, cache: Path) -> None:
    """Weights that must be converted: the error says how they are fetched, and what then."""
    hub.files = {"config.json": b"{}", "model.safetensors": b"weights"}
    with pytest.raises(DownloadError, match="no GGUF file, but a checkpoint") as caught:
        pull("hf:me/mine")
    told = "run: hf download me/mine --local-dir mine, then: edgellama convert mine"
    assert told in caught.value.in_terminal
    hub.files = {"README.md": b"?"}
    with pytest.raises(DownloadError, match=r"holds no GGUF file$"):
        pull("hf:me/mine")
    assert everything_below(cache) == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("hf:me/mine", "small-Q4_K_M.gguf"),
        ("hf:me/mine:q6_k", "small-Q6_K.gguf"),
        ("hf:me/mine:small-Q6_K_L.gguf", "small-Q6_K_L.gguf"),
    ],
)
def test_a_type_is_told_from_those_that_begin_alike(hub: FakeHub, name: str, file: str) -> None:
    """A type is one file's though other names hold it, too; none means the usual one."""
    assert pull(name).name == file
    pull("hf:me/mine:q8_0")
    assert names.resolve(name).name == file


def test_hub_file_is_stored_under_its_repository(hub: FakeHub, cache: Path) -> None:
    """An exact file name or a fragment fetches that file once and resolves afterwards."""
    path = pull("hf:me/mine:small-Q8_0.gguf")
    assert path == cache / "models" / "hf" / "me" / "mine" / "small-Q8_0.gguf"
    assert pull("hf:me/mine:q8_0") == path
    assert fetched(hub) == ["small-Q8_0.gguf"]
    assert names.resolve("hf:me/mine") == path
    assert names.pulled_models() == {"hf:me/mine:small-Q8_0.gguf": path}


def test_split_hub_model_is_fetched_whole(hub: FakeHub) -> None:
    """Every part is fetched; one that is missing later is fetched again."""
    first = pull("hf:me/mine:q8_k")
    assert first.name == "big-Q8_K-00001-of-00002.gguf"
    assert len(fetched(hub)) == 2
    assert names.resolve("hf:me/mine:q8_k") == first
    model_files.split_parts(first)[1].unlink()
    pull("hf:me/mine:q8_k")
    assert fetched(hub)[2:] == ["big/big-Q8_K-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/mine:s", r"several GGUF files.*big-Q8_K-00001.*small-Q4_K_M\.gguf, small-Q6_K"),
        ("hf:me/mine:q2", r"fits no GGUF file; name one of"),
        ("hf:me/other", "shows no such repository; check the name"),
    ],
)
def test_hub_errors_say_what_to_do(hub: FakeHub, cache: Path, name: str, message: str) -> None:
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


def test_a_repository_without_its_prefix_is_guessed() -> None:
    """Who leaves out hf: is told what was meant, by models and by pull."""
    with pytest.raises(ModelNotFoundError, match=r"did you mean hf:me/mine-GGUF:q8_0\?"):
        names.resolve("me/mine-GGUF:q8_0")
    with pytest.raises(InvalidOptionError, match=r"did you mean hf:me/mine-GGUF\?"):
        pull("me/mine-GGUF")


def test_models_of_the_temporary_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: FakeHub
) -> None:
    """Where the cache cannot be written to, a model is kept elsewhere and found again."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGELLAMA_CACHE", str(tmp_path / "file" / "cache"))
    path = pull("hf:me/mine:q8_0")
    assert path.is_relative_to(tmp_path / "temporary")
    assert pull("hf:me/mine:q8_0") == path
    assert fetched(hub) == ["small-Q8_0.gguf"]
    assert names.pulled_models() == {"hf:me/mine:small-Q8_0.gguf": path}


def test_full_disk_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is or becomes full is an error with the folder and what to do."""

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(CacheError, match=r"me/mine cannot be written: No space.*EDGELLAMA_CACHE"):
        pull("hf:me/mine:q8_0")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=11))
    with pytest.raises(DownloadError, match=r"me/mine has 0 MB free.*EDGELLAMA_CACHE"):
        pull("hf:me/mine:q8_0")


def test_choose_file_prefers_the_exact_name() -> None:
    """A file whose name is a fragment of another's can still be named."""
    reference = well_known.HubReference("me/mine", "a.gguf")
    assert hub_download.choose_file(reference, ["a.gguf", "xa.gguf"]) == ["a.gguf"]
