"""Names of models and the cache folder, and what is told where nothing is found."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from cache_files import touch

from edgellama.kernels_cpu.machine.user_cache import cache_root
from edgellama.models import hub as hub_download
from edgellama.models import model_files, names, well_known
from edgellama.models.pulling import pull
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    """Whatever the user has, a test's cache is its own."""
    return empty_cache


def test_pull_refuses_unknown_names() -> None:
    """The error lists what can be pulled."""
    with pytest.raises(InvalidOptionError, match=r"cannot pull 'gpt-5'.*smollm2"):
        pull("gpt-5")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("llama3.2", r"llama3\.2:1b or llama3\.2:3b\?"),
        ("Llama3.2:8b", r"llama3\.2:1b or llama3\.2:3b\?"),
        ("mistral:8b-q8_0", r"mistral:7b\?"),
        ("smolm2", r"smollm2\?"),
        ("me/mine", r"hf:me/mine\?"),
    ],
)
def test_a_name_that_is_nearly_right_gets_a_suggestion(name: str, meant: str) -> None:
    """A family without a size, a size that there is not, a slip: the same for pull and for use."""
    with pytest.raises(InvalidOptionError, match=f"did you mean {meant}"):
        pull(name)
    with pytest.raises(ModelNotFoundError, match=f"did you mean {meant}"):
        names.resolve(name)


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
    with pytest.raises(ModelNotFoundError, match=r"no such file; nowhere is not a folder"):
        names.resolve("nowhere/model.gguf")


def test_the_home_of_nobody_is_no_error_of_its_own(cache: Path) -> None:
    """A path in the home folder of a user whom there is not is told as one that is not there."""
    with pytest.raises(ModelNotFoundError, match=r"~nobody-at-all/model\.gguf"):
        names.resolve("~nobody-at-all/model.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and links in folders")
def test_what_is_there_and_no_file_is_told_as_what_it_is(cache: Path, tmp_path: Path) -> None:
    """A pipe, as a shell gives for <(...), and a link whose end is gone are not called absent."""
    pipe, link = tmp_path / "pipe", tmp_path / "link.gguf"
    os.mkfifo(pipe)
    link.symlink_to("gone.gguf")
    with pytest.raises(ModelNotFoundError, match="pipe is not a regular file; allowed: a file"):
        names.resolve(pipe)
    with pytest.raises(ModelNotFoundError, match=r"a link to .gone\.gguf., which is not there"):
        names.resolve(link)
    circle = tmp_path / "circle.gguf"
    circle.symlink_to(circle.name)
    with pytest.raises(ModelNotFoundError, match=r"a link to .circle\.gguf., which leads nowhere"):
        names.resolve(circle)


@pytest.mark.skipif(sys.platform == "win32", reason="other systems know such names by themselves")
@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".gguf", "./" + "x" * 5000])
def test_names_that_are_too_long(name: str, cache: Path) -> None:
    """What the system takes for no name is told in a short line."""
    with pytest.raises(ModelNotFoundError, match="File name too long") as caught:
        names.resolve(name)
    assert len(str(caught.value)) < 150
    assert not names.holds_checkpoint(Path(name))


def test_any_part_of_a_split_model_means_its_first(tmp_path: Path) -> None:
    """Later parts resolve to the first one, and without it to an error that names it."""
    second = touch(tmp_path / "big-00002-of-00002.gguf")
    with pytest.raises(ModelNotFoundError, match=r"big-00001-of-00002\.gguf is missing"):
        names.resolve(second)
    first = touch(tmp_path / "big-00001-of-00002.gguf")
    assert names.resolve(second) == first
    assert names.resolve(tmp_path) == first
    assert model_files.split_parts(first) == [first, second]


def test_cache_folder_is_the_platforms_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable the folder is called edgellama and lies below the user's home."""
    monkeypatch.delenv("EDGELLAMA_CACHE")
    assert "edgellama" in cache_root().parts
    assert cache_root().is_relative_to(Path.home())


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
    "qwen2.5:7b": "hf:bartowski/Qwen2.5-7B-Instruct-GGUF:Qwen2.5-7B-Instruct-Q4_K_M.gguf",
    "qwen3:0.6b-q8_0": "hf:bartowski/Qwen_Qwen3-0.6B-GGUF:Qwen_Qwen3-0.6B-Q8_0.gguf",
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


def test_a_slip_in_a_models_name_is_told(cache: Path) -> None:
    """The error says which known name is nearly the one that was given."""
    with pytest.raises(ModelNotFoundError, match="called 'smolm2'; did you mean smollm2"):
        names.resolve("smolm2")
