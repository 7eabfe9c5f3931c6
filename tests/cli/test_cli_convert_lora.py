"""``edgellama convert-lora`` in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CliRunner
from reference.tiny_adapter import (
    adapter_tensors,
    random_factors,
    write_adapter,
    write_base_config,
)
from reference.tiny_models import TinyLlama

from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A PEFT folder, with the base model's beside it."""
    write_base_config(tmp_path / "base", MODEL)
    factors = random_factors(MODEL, ["blk.0.attn_q", "blk.1.ffn_up"], {"": 4, "blk.1.ffn_up": 6})
    return write_adapter(tmp_path / "adapter", adapter_tensors(factors))


def test_adapter_is_written_beside_the_folder(run_cli: CliRunner, adapter: Path) -> None:
    """One line says where the file is and what it holds; a second run does not replace it."""
    arguments = ("convert-lora", adapter, "--type", "f16", "--base", adapter.parent / "base")
    result = run_cli(*arguments)
    path = adapter.parent / "adapter-lora-f16.gguf"
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{path}: 2 matrices of rank 4, 6, 0.0 MB\n"
    with GGUFFile(path) as file:
        assert file.metadata["general.type"] == "adapter"
        assert len(file.tensors) == 4
    again = run_cli(*arguments)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert run_cli(*arguments, "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{adapter}"], "name it with --base, the model's folder"),
        (["{adapter}", "--base", "{adapter}"], "is no base model"),
        (["{base}", "--base", "{base}"], "holds no adapter_config.json"),
        (["nowhere"], "nowhere holds no adapter_config.json"),
        (["{adapter}", "no/such/a.gguf", "--base", "{base}"], "there is no folder no/such"),
    ],
)
def test_impossible_requests_are_one_line(
    run_cli: CliRunner, adapter: Path, arguments: list[str], message: str
) -> None:
    """What cannot be done ends with exit code 1 and one line that says what is needed."""
    base = adapter.parent / "base"
    result = run_cli("convert-lora", *[a.format(adapter=adapter, base=base) for a in arguments])
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("edgellama: error: ")
    assert message in line
    assert not list(adapter.parent.rglob("*.gguf"))


@pytest.mark.parametrize("command", ["generate", "convert", "imatrix", "perplexity"])
def test_an_adapter_is_no_model(run_cli: CliRunner, adapter: Path, command: str) -> None:
    """Commands that need a model say what an adapter's file is instead."""
    path, text = adapter / "a.gguf", adapter / "text.txt"
    text.touch()
    assert run_cli("convert-lora", adapter, path, "--base", adapter.parent / "base").returncode == 0
    options = {"generate": ["-p", "a"], "convert": [adapter / "out.gguf"], "imatrix": ["-f", text]}
    more = ["-o", adapter / "i.gguf"] if command == "imatrix" else []
    result = run_cli(command, path, *options.get(command, ["-f", text]), *more)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(
        "a.gguf: the file holds a LoRA adapter, not a model; give it with --lora beside its model"
    )


def test_types_are_those_of_the_converter(run_cli: CliRunner) -> None:
    """The help offers exactly the types that the converter knows."""
    from edgellama.cli.commands.convert_lora import TYPES
    from edgellama.convert.adapter.lora import FILE_TYPES

    assert set(TYPES) == set(FILE_TYPES)
