"""``inspect``, ``tokenize`` and ``doctor`` on the real starter model, in real processes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conftest import CliRunner
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cli.commands import doctor
from edgellama.cli.commands.inspect_model import report_lines, summarize
from edgellama.kernels_cpu.machine import cpu_features
from edgellama.kernels_cpu.machine.cpu import TIERS, compilable_tiers
from edgellama.quant.gguf.file import GGUFFile

NUM_PARAMETERS = 134_515_008


def test_inspect_counts_exactly(run_cli: CliRunner, smollm2_path: Path) -> None:
    """Parameters, bits per weight and formats agree with the model's published shape."""
    summary = json.loads(run_cli("inspect", smollm2_path, "--json").stdout)
    layer = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576 + 2 * 576
    assert summary["parameters"] == NUM_PARAMETERS == 49152 * 576 + 30 * layer + 576
    assert len(summary["tensors"]) == 272
    num_bytes = sum(tensor["num_bytes"] for tensor in summary["tensors"])
    assert summary["bits_per_weight"] == pytest.approx(8 * num_bytes / NUM_PARAMETERS)
    assert {name: use["tensors"] for name, use in summary["formats"].items()} == {
        "Q4_1": 210,
        "Q8_0": 1,
        "F32": 61,
    }
    assert summary["file_bytes"] == smollm2_path.stat().st_size
    assert summary["metadata"]["llama.block_count"] == 30
    assert summary["metadata"]["tokenizer.ggml.tokens"]["length"] == 49152
    assert summary["chat_template"].startswith("{% for message in messages %}")


def test_inspect_for_people(run_cli: CliRunner, smollm2_path: Path) -> None:
    """A summary with the same figures comes first, tensors only when they are asked for."""
    output = run_cli("inspect", smollm2_path).stdout
    summary, _, rest = output.partition("\n\n")
    lines = dict(line.split(maxsplit=1) for line in summary.splitlines())
    assert lines["parameters"] == "134,515,008"
    assert (lines["type"], lines["context"]) == ("q4_1", "8,192 tokens")
    assert "bits per weight 5.744" in summary
    assert rest.startswith("metadata (")
    assert "\nchat template\n  {% for message in messages %}" in rest
    tensor = "\n  blk.29.ffn_down.weight"
    assert tensor not in output
    assert tensor in run_cli("inspect", smollm2_path, "--tensors").stdout


SCALED = {
    "256 tokens, scaled (dynamic), 4 times 64 tokens": TinyLlama(
        context_length=64, rope_dynamic_factor=4.0
    ),
    "256 tokens, scaled (yarn), 4 times 64 tokens": TinyLlama(
        rope_scaling="yarn", rope_factor=4.0, rope_original_context=64
    ),
    "256 tokens, scaled (linear), 2 times 128 tokens": TinyLlama(
        rope_scaling="linear", rope_factor=2.0
    ),
    "256 tokens, scaled as Llama 3.1's": TinyLlama(rope_freqs=True),
    "256 tokens": TinyLlama(),
}


@pytest.mark.parametrize(("expected", "model"), SCALED.items(), ids=SCALED)
def test_scaled_positions(expected: str, model: TinyLlama, tmp_path: Path) -> None:
    """The context is the one that scaling is for, and how positions are scaled stands below it."""
    with GGUFFile(write_tiny_llama(tmp_path / "tiny.gguf", model)) as file:
        lines = list(report_lines(summarize(file), with_tensors=False))
    titles = ("context ", "positions ")
    found = [line.split(maxsplit=1)[1] for line in lines if line.startswith(titles)]
    assert ", ".join(found) == expected


def test_inspect_cannot_steer_the_terminal(run_cli: CliRunner, tmp_path: Path) -> None:
    """Escape sequences in a file's metadata are not sent to the terminal."""
    from gguf import GGUFWriter

    path = tmp_path / "evil.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.name", "\x1b]0;owned\x07\x1b[31mred")
    writer.add_chat_template("\x1b[2J{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = run_cli("inspect", path)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "{{ messages }}" in result.stdout


def test_inspect_refuses_other_files(run_cli: CliRunner, tmp_path: Path) -> None:
    """A file that is not GGUF gives one line that names it."""
    path = tmp_path / "letter.gguf"
    path.write_text("Dear reader")
    result = run_cli("inspect", path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"edgellama: error: {path}: ")


def test_tokenize_round_trips(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """Text from an argument, a file and a pipe gives the same ids, in JSON and in lines."""
    text = "Hello, wörld 你好\n"
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode())
    from_argument = json.loads(run_cli("tokenize", smollm2_path, text, "--json").stdout)
    from_file = json.loads(run_cli("tokenize", smollm2_path, "-f", file, "--json").stdout)
    from_pipe = run_cli("tokenize", smollm2_path, "-", "--json", text_input=text)
    lines = run_cli("tokenize", smollm2_path, text).stdout.splitlines()
    assert from_argument == from_file == json.loads(from_pipe.stdout)
    assert [int(line.split("\t")[0]) for line in lines] == from_argument
    assert lines[0] == "19556\tHello"


def test_tokenize_special_only_on_request(run_cli: CliRunner, smollm2_path: Path) -> None:
    """Text that looks like a control token stays text unless it is asked for."""
    plain = json.loads(run_cli("tokenize", smollm2_path, "<|im_end|>", "--json").stdout)
    parsed = run_cli("tokenize", smollm2_path, "<|im_end|>", "--json", "--parse-special").stdout
    assert json.loads(parsed) == [2]
    assert 2 not in plain


def test_tokenize_refuses_text_that_is_not_utf8(
    run_cli: CliRunner, smollm2_path: Path, tmp_path: Path
) -> None:
    """A file of other bytes is an explained error."""
    file = tmp_path / "latin1.txt"
    file.write_bytes(b"caf\xe9")
    result = run_cli("tokenize", smollm2_path, "-f", file)
    assert result.returncode == 1
    assert "is not UTF-8" in result.stderr


def test_doctor_reports_this_machine(run_cli: CliRunner, tmp_path: Path) -> None:
    """Tier, threads, cache folder and versions are there, and nothing is missing here."""
    models = tmp_path / "cache" / "models"
    models.mkdir(parents=True)
    for name in ("a.gguf", "a.gguf.used"):
        (models / name).touch()
    result = run_cli("doctor", environment={"EDGELLAMA_CACHE": str(tmp_path / "cache")})
    assert result.returncode == 0
    assert re.search(r"\n  models +1 file, 0.0 MB\n", result.stdout)
    for tier in TIERS:
        assert tier in compilable_tiers() or f"{tier.name} needs" not in result.stdout
    assert result.stdout.endswith("nothing is missing\n")
    for label in ("tier in use", "usable cores", "numba", "llvmlite", "compiled kernels"):
        assert f"\n  {label} " in result.stdout
    assert str(tmp_path / "cache") in result.stdout
    assert "\ngraphics card\n" in result.stdout


def test_doctor_blames_no_cpu_for_what_the_system_withholds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tier that this process cannot use is told with what it needs and both reasons."""
    monkeypatch.setattr(cpu_features, "host_features", frozenset)
    found = dict(doctor._cpu([]))
    demanding = [tier for tier in compilable_tiers() if tier.requires]
    assert demanding
    for tier in demanding:
        features = ", ".join(sorted(tier.requires))
        expected = f"{features}, which the CPU lacks or the system withholds"
        assert found[f"{tier.name} needs"] == expected
    assert not any(label.endswith("lacks") for label in found)


def test_doctor_reports_to_programs(run_cli: CliRunner, tmp_path: Path) -> None:
    """The same as one JSON object, whose ``missing`` has what is listed as missing."""
    environment = {"EDGELLAMA_CACHE": str(tmp_path), "EDGELLAMA_TIER": "mmx"}
    result = run_cli("doctor", "--json", environment=environment)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert found["cache"]["folder"] == str(tmp_path)
    assert found["threads"]["logical CPUs"] == str(os.cpu_count())
    assert any("tier 'mmx' cannot run" in problem for problem in found["missing"])


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"EDGELLAMA_TIER": "mmx"}, "tier 'mmx' cannot run on this CPU"),
        ({"EDGELLAMA_NUM_THREADS": "many"}, "EDGELLAMA_NUM_THREADS is 'many'"),
    ],
)
def test_doctor_finds_bad_settings(
    run_cli: CliRunner, environment: dict[str, str], message: str
) -> None:
    """A setting that would stop the engine is listed and gives exit code 1."""
    result = run_cli("doctor", environment=environment)
    assert result.returncode == 1
    assert message in result.stdout.partition("\nmissing\n")[2]


def test_doctor_finds_a_cache_that_cannot_be_written(run_cli: CliRunner, tmp_path: Path) -> None:
    """A cache folder below a file is listed with the variable that helps."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    result = run_cli("doctor", environment={"EDGELLAMA_CACHE": str(folder)})
    assert result.returncode == 1
    assert f"{folder} cannot be written to" in result.stdout.partition("\nmissing\n")[2]
