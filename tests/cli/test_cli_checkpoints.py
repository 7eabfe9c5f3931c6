"""From a checkpoint's folder to a text in one command, with a real conversion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import CliRunner, keep_kernels
from places import DATA
from reference.adapter_files import write_gguf_adapter
from reference.family import MEMBERS
from reference.relatives_gguf import write_gguf

from edgellama import Llama
from edgellama.convert.imatrix import write_imatrix
from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE
from edgellama.quant.errors import UnsupportedModelError

MEMBER = next(member for member in MEMBERS if member.name == "llama-2")
GREEDY = ("-p", "Hello", "-n", "4", "--temperature", "0", "--json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama 2 as Hugging Face keeps it."""
    return MEMBER.write(tmp_path / "Tiny-Llama")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache without models that shares the compiled kernels of the user's own."""
    return keep_kernels(tmp_path / "cache")


def converted_types(cache: Path) -> list[str]:
    """Types of the models in the cache."""
    return sorted(path.stem.split("-")[-2] for path in (cache / "converted").rglob("*.gguf"))


def test_generate_converts_once(run_cli: CliRunner, folder: Path, cache: Path) -> None:
    """The first run says that it converts, the second only runs, and both give the same text."""
    environment = {CACHE_VARIABLE: str(cache)}
    arguments = ("generate", folder, "--type", "q8_0", *GREEDY)
    first = run_cli(*arguments, environment=environment)
    assert first.returncode == 0, first.stderr
    assert "converting Tiny-Llama to q8_0, kept for the next time" in first.stderr
    second = run_cli(*arguments, environment=environment)
    assert second.stderr == ""
    assert json.loads(second.stdout)["tokens"] == json.loads(first.stdout)["tokens"]
    assert converted_types(cache) == ["q8_0"]


def test_chat_without_a_type_takes_the_default(
    run_cli: CliRunner, folder: Path, cache: Path
) -> None:
    """A folder alone is enough for a chat; what it is converted to is said."""
    result = run_cli(
        *("chat", folder, "-n", "4"), text_input="Hello\n", environment={CACHE_VARIABLE: str(cache)}
    )
    assert result.returncode == 0, result.stderr
    assert "converting Tiny-Llama to q4_k_m" in result.stderr
    assert "4 tokens at" in result.stderr
    assert converted_types(cache) == ["q4_k_m"]


def test_a_gguf_file_can_be_requantized(
    run_cli: CliRunner, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GGUF file runs as another type too, and Python finds what the command has made."""
    environment = {CACHE_VARIABLE: str(cache)}
    assert run_cli("convert", folder, folder / "m.gguf", "--type", "f16").returncode == 0
    result = run_cli(
        "generate", folder / "m.gguf", "--type", "q4_0", *GREEDY, environment=environment
    )
    assert result.returncode == 0, result.stderr
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    before = sorted(cache.rglob("*.gguf"))
    with Llama(folder / "m.gguf", quantize="q4_0") as llama:
        assert (
            list(llama.generate("Hello", max_tokens=4, temperature=0).tokens)
            == (json.loads(result.stdout)["tokens"])
        )
    assert sorted(cache.rglob("*.gguf")) == before


def test_a_file_that_does_not_run_as_it_is(
    run_cli: CliRunner, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GGUF file that can be written as a Llama's is, once; Python does so if it is told to."""
    golden = dict(np.load(DATA / "relatives_golden.npz"))
    path = write_gguf(tmp_path / "phi.gguf", "phi3", golden)
    environment = {CACHE_VARIABLE: str(cache)}
    result = run_cli("generate", path, *GREEDY, environment=environment)
    assert result.returncode == 0, result.stderr
    assert "converting phi.gguf as a Llama, without quantizing it again, kept" in result.stderr
    assert run_cli("generate", path, *GREEDY, environment=environment).stderr == ""
    assert converted_types(cache) == ["copy"]
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    with pytest.raises(UnsupportedModelError, match=r"'phi3' cannot run.*quantize=.copy."):
        Llama(path)
    with Llama(path, quantize="copy") as llama:
        text = llama.generate("Hello", max_tokens=4, temperature=0)
    assert list(text.tokens) == json.loads(result.stdout)["tokens"]
    assert converted_types(cache) == ["copy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "q9"], "no type is called 'q9'; allowed: "),
        (["--type", "q4_0", "-c", "0"], "-c"),
    ],
)
def test_wrong_options_convert_nothing(
    run_cli: CliRunner, folder: Path, cache: Path, arguments: list[str], message: str
) -> None:
    """One line says what is wrong, before anything is converted."""
    result = run_cli(
        *("generate", folder, *arguments, *GREEDY), environment={CACHE_VARIABLE: str(cache)}
    )
    assert result.returncode in (1, 2)
    (line,) = result.stderr.splitlines()
    assert message in line
    assert not (cache / "converted").exists()


def test_other_commands_say_what_to_do(run_cli: CliRunner, folder: Path) -> None:
    """Commands that do not convert point to those that do."""
    result = run_cli("inspect", folder)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "holds a checkpoint, which must be converted" in line


def test_files_that_are_no_models(run_cli: CliRunner, folder: Path, tmp_path: Path) -> None:
    """Weights, adapters and importance matrices given as models say what they are for."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", "ascii")
    (adapter / "adapter_model.safetensors").touch()
    written = write_gguf_adapter(tmp_path / "lora.gguf", {})
    imatrix = tmp_path / "i.gguf"
    write_imatrix(imatrix, {"a": np.ones(4)}, num_tokens=9, chunk_tokens=3, datasets=[])
    for path, message in (
        (folder / "model.safetensors", "is a checkpoint, which must be converted before it runs"),
        (adapter, "holds a LoRA adapter, not a model; edgellama convert-lora"),
        (written, "the file holds a LoRA adapter, not a model; give it with --lora"),
        (imatrix, "the file holds an importance matrix, not a model; give it to edgellama convert"),
    ):
        result = run_cli("footprint", path)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"edgellama: error: {path}") and message in line
