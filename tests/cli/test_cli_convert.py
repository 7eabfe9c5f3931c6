"""``edgellama convert`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import CliRunner
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.recipes import COPY, RECIPES

TINY = TinyLlama(width=256, feed_forward=512, vocab_size=300, layers=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is only read."""
    return write_tiny_llama(tmp_path_factory.mktemp("source") / "tiny-f32.gguf", TINY)


def test_convert_writes_a_file_and_one_line(
    run_cli: CliRunner, source: Path, tmp_path: Path
) -> None:
    """The file appears in the current folder, and standard output has the summary alone."""
    result = run_cli("convert", source, "--type", "Q8_0", "--verify", "--report", "r.json")
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert line.startswith("tiny-Q8_0.gguf: q8_0, ")
    assert "bits per weight, error 0." in line
    assert line.endswith("verified")
    assert "%" in line
    folder = tmp_path / "empty"
    assert sorted(path.name for path in folder.iterdir()) == ["r.json", "tiny-Q8_0.gguf"]
    report = json.loads((folder / "r.json").read_text("utf-8"))
    assert f"{report['bits_per_weight']:.3f} bits per weight" in line
    with GGUFFile(folder / "tiny-Q8_0.gguf") as file:
        assert {tensor["name"] for tensor in report["tensors"]} == set(file.tensors)


def test_options_reach_the_file(run_cli: CliRunner, source: Path, tmp_path: Path) -> None:
    """Types of single tensors and metadata are what the command line says."""
    result = run_cli(
        *("convert", source, "out.gguf", "--type", "q8_0", "--tensor-type", "ffn_(up|down)=q4_0"),
        *("--tensor-type", "ffn=f16", "--output-tensor-type", "BF16"),
        *("--token-embedding-type", "q5_1", "--name", "My model"),
        *("--metadata", "general.author=me", "--metadata", "tokenizer.ggml.add_bos_token=false"),
    )
    assert result.returncode == 0, result.stderr
    with GGUFFile(tmp_path / "empty" / "out.gguf") as file:
        formats = {name: tensor.format.name for name, tensor in file.tensors.items()}
        assert formats["blk.0.ffn_up.weight"] == formats["blk.1.ffn_down.weight"] == "Q4_0"
        assert formats["blk.0.ffn_gate.weight"] == "F16"
        assert formats["output.weight"] == "BF16"
        assert formats["token_embd.weight"] == "Q5_1"
        assert file.metadata["general.name"] == "My model"
        assert file.metadata["general.author"] == "me"
        assert file.metadata["tokenizer.ggml.add_bos_token"] is False


def test_dry_run_lists_everything_and_writes_nothing(
    run_cli: CliRunner, source: Path, tmp_path: Path
) -> None:
    """A dry run names every tensor, types, sizes, and whether disk and memory suffice."""
    result = run_cli("convert", source, "--type", "q4_k_m", "--dry-run")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    table = {line.split()[0]: line.split() for line in lines[1:] if line.startswith(("blk", "out"))}
    with GGUFFile(source) as file:
        assert set(table) == set(file.tensors) - {"token_embd.weight"}
    assert table["blk.1.attn_q.weight"][1:] == ["256", "x", "256", "F32", "Q4_K", "36,864"]
    assert table["output.weight"][5] == "Q6_K"
    assert any("bits per weight" in line for line in lines)
    assert [line.split()[-1] for line in lines[-2:]] == ["enough", "enough"]
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "q9"], "no type is called 'q9'; allowed: f32, f16"),
        (["--tensor-type", "ffn"], "'ffn'; allowed: REGEX=TYPE"),
        (["--metadata", "author"], "'author'; allowed: KEY=VALUE"),
        (["--imatrix", "none.gguf"], "none.gguf"),
        (["/no/such/folder/out.gguf"], "there is no folder /no/such/folder"),
    ],
)
def test_errors_are_one_line(
    run_cli: CliRunner, source: Path, arguments: list[str], message: str
) -> None:
    """Wrong options and places give exit code 1 and one line."""
    result = run_cli("convert", source, *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("edgellama: error: ")
    assert message in line


def test_a_missing_source_says_what_can_be_given(run_cli: CliRunner) -> None:
    """A source that is nowhere is one line that names the possibilities."""
    result = run_cli("convert", "no-such-folder")
    assert result.returncode == 1
    assert "no file and no model called 'no-such-folder'" in result.stderr


def test_the_help_names_every_type(run_cli: CliRunner) -> None:
    """Every type that a recipe exists for is in the help."""
    words = run_cli("convert", "--help").stdout.replace(".", " ").split()
    assert {*RECIPES, COPY.name} <= set(words)


def test_a_real_model(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """The starter model, converted by its name, answers as before."""
    result = run_cli("convert", "smollm2", "out.gguf", "--type", "q8_0", "--verify")
    assert result.returncode == 0, result.stderr
    prompt = ("-p", "The capital of France is", "-n", "4", "--temperature", "0")
    answers = [run_cli("generate", model, *prompt).stdout for model in ("out.gguf", smollm2_path)]
    assert answers[0] == answers[1] != ""
