"""``edgellama footprint`` in real processes."""

from __future__ import annotations

import csv
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CliRunner
from places import DATA
from reference.relatives import write_relative
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cli.inputs.model_outline_source import find_outline
from edgellama.convert import convert
from edgellama.measure.child_process import run_in_child
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.gguf.file import GGUFFile

CONFIGURATION = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with 1000 tokens of context."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    return write_tiny_llama(path, TinyLlama(context_length=1000))


def rows_of(run_cli: CliRunner, *arguments: object) -> list[dict[str, Any]]:
    """The rows that ``-o json`` prints."""
    result = run_cli("footprint", *map(str, arguments), "-o", "json")
    assert result.returncode == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_json_is_a_switch_too(run_cli: CliRunner) -> None:
    """``--json`` prints what ``-o json`` does, whatever else is said of the style."""
    arguments = ("footprint", "llama-3.1-8b", "--type", "q4_0")
    wanted = run_cli(*arguments, "-o", "json").stdout
    assert json.loads(wanted)
    assert run_cli(*arguments, "--json").stdout == wanted
    assert run_cli(*arguments, "--json", "-o", "csv").stdout == wanted


def test_every_combination_is_a_row(run_cli: CliRunner) -> None:
    """Types, KV types and contexts multiply; parts add up to the total; counts are exact."""
    arguments = ("--type", "q4_0,q8_0", "--kv", "f16,f32,f32/f16", "-c", "512,4096")
    rows = rows_of(run_cli, "llama-2-13b", *arguments)
    assert [(row["type"], row["kv_type"], row["context_length"]) for row in rows] == [
        (type, kv_type, context_length)
        for type in ("q4_0", "q8_0")
        for kv_type in ("f16", "f32", "f32/f16")
        for context_length in (512, 4096)
    ]
    for row in rows:
        assert row["parameters"] == 13_015_864_320
        parts = ("weights", "kv", "activations", "vocabulary", "code")
        assert row["predicted_total_bytes"] == sum(row[f"predicted_{p}_bytes"] for p in parts)


def test_the_prompt_cache_is_a_part_of_its_own(run_cli: CliRunner) -> None:
    """Its limit is counted where it is asked for, and shown only then."""
    arguments = ("smollm2-135m", "--type", "q4_0", "--kv", "f16")
    (without,) = rows_of(run_cli, *arguments)
    (row,) = rows_of(run_cli, *arguments, "--prompt-cache", "500MB")
    assert without["predicted_prompt_cache_bytes"] == 0
    assert row["predicted_prompt_cache_bytes"] == 500_000_000
    assert row["predicted_total_bytes"] == without["predicted_total_bytes"] + 500_000_000
    table = run_cli("footprint", *arguments, "--prompt-cache", "0").stdout
    assert "prompt cache" not in table
    table = run_cli("footprint", *arguments, "--prompt-cache", "0.5").stdout
    assert "prompt cache" in table
    assert "500.0 MB" in table
    wrong = run_cli("footprint", *arguments, "--prompt-cache", "much")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "'much'; allowed: such as 16GB" in wrong.stderr


def test_a_draft_model_is_a_part_of_its_own(run_cli: CliRunner, model: Path) -> None:
    """All of it but the code is counted, of its own context at most, and measured with the rest."""
    (alone,) = rows_of(run_cli, model, "--kv", "f16", "-c", "1000")
    arguments = ("smollm2-135m", "--type", "q4_0", "--kv", "f16", "-c", "4096")
    (without,) = rows_of(run_cli, *arguments)
    (row,) = rows_of(run_cli, *arguments, "--draft", model)
    taken = alone["predicted_total_bytes"] - alone["predicted_code_bytes"]
    assert (without["predicted_draft_bytes"], row["predicted_draft_bytes"]) == (0, taken)
    assert row["predicted_total_bytes"] == without["predicted_total_bytes"] + taken
    (of_size,) = rows_of(run_cli, *arguments, "--draft", "smollm2-135m")
    assert of_size["predicted_draft_bytes"] > without["predicted_weights_bytes"]
    (measured,) = rows_of(run_cli, model, "--draft", model, "-c", "200", "--measure")
    assert measured["measured_tokens"] == 200
    assert measured["predicted_draft_bytes"] > 0


def test_a_configuration_and_its_folder(run_cli: CliRunner, tmp_path: Path) -> None:
    """config.json, or the folder that it lies in, says as much as the preset of the model."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGURATION))
    (expected,) = rows_of(run_cli, "llama-3.2-1b", "--type", "q4_k_m", "--kv", "f16")
    for source in (path, tmp_path):
        (row,) = rows_of(run_cli, source, "--type", "q4_k_m", "--kv", "f16")
        assert row | {"model": ""} == expected | {"model": ""}


def test_the_window_of_a_configuration_counts(run_cli: CliRunner, tmp_path: Path) -> None:
    """Keys and values behind a sliding window are not held, as the preset of the model says."""
    mistral = {
        "architectures": ["MistralForCausalLM"],
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "sliding_window": 4096,
    }
    (tmp_path / "config.json").write_text(json.dumps(mistral))
    arguments = ("--type", "q4_k_m", "--kv", "f16", "-c", "32768")
    (expected,) = rows_of(run_cli, "mistral-7b-v0.1", *arguments)
    (row,) = rows_of(run_cli, tmp_path, *arguments)
    assert row | {"model": ""} == expected | {"model": ""}


# From the releases' own params.json.
PARAMETERS = {
    "llama-1-7b": {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32,
                   "norm_eps": 1e-06, "vocab_size": -1},
    "llama-2-70b": {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64,
                    "n_kv_heads": 8, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1},
    "llama-3-8b": {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8,
                   "vocab_size": 128256, "multiple_of": 1024, "ffn_dim_multiplier": 1.3,
                   "norm_eps": 1e-05, "rope_theta": 500000.0},
    "llama-3.2-1b": {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8,
                     "vocab_size": 128256, "ffn_dim_multiplier": 1.5, "multiple_of": 256,
                     "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True},
}  # fmt: skip


QWEN_2_5: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
QWEN_3 = QWEN_2_5 | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "attention_bias": False,
}
PHI_3: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
    "tie_word_embeddings": False,
}
LLAVA: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "vision_config": {"model_type": "clip_vision_model"},
}


@pytest.mark.parametrize("name", ["phi3-long", "qwen2", "qwen3", "ministral3"])
def test_relatives_have_the_tensors_of_their_files(name: str, tmp_path: Path) -> None:
    """What a configuration alone tells of tensors is what its conversion writes."""
    golden = dict(np.load(DATA / "relatives_golden.npz"))
    folder = write_relative(tmp_path / name, name, golden)
    path = convert(folder, tmp_path / "model.gguf", type="f32").path
    outline = find_outline(str(folder / "config.json")).outline
    with GGUFFile(path) as file:
        assert outline.shapes == {name: tensor.shape for name, tensor in file.tensors.items()}


@pytest.mark.parametrize(
    ("configuration", "num_parameters"),
    [
        (QWEN_2_5, 494_032_768),
        (QWEN_3, 596_049_920),
        (PHI_3, 3_821_079_552),
        (LLAVA, 6_738_939_904),
    ],
    ids=["Qwen 2.5 0.5B", "Qwen 3 0.6B", "Phi-3 mini", "the text model of LLaVA 1.5 7B"],
)
def test_relatives_have_the_published_parameters(
    tmp_path: Path, configuration: dict[str, Any], num_parameters: int
) -> None:
    """Biases and norms that no field tells of are counted; with vision, the text model alone."""
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    assert find_outline(str(tmp_path)).outline.num_parameters == num_parameters


@pytest.mark.parametrize("preset", PARAMETERS)
def test_parameters_of_meta(run_cli: CliRunner, tmp_path: Path, preset: str) -> None:
    """params.json, or its folder, without any weights, says as much as the preset of the model."""
    path = tmp_path / "params.json"
    path.write_text(json.dumps(PARAMETERS[preset]))
    (expected,) = rows_of(run_cli, preset, "--type", "q4_0", "--kv", "q8_0", "-c", "1000")
    for source in (path, tmp_path) if preset == "llama-3-8b" else (tmp_path,):
        (row,) = rows_of(run_cli, source, "--type", "q4_0", "--kv", "q8_0", "-c", "1000")
        assert row | {"model": ""} == expected | {"model": ""}


def test_the_best_that_fits_comes_first(run_cli: CliRunner) -> None:
    """--fit answers with what fits, the best first, and with one line if nothing does."""
    rows = rows_of(run_cli, "llama-3-8b", "--fit", "7.5GB", "--context", "8192", "--kv", "f16")
    assert rows[0]["type"] == "q5_k_m"
    assert all(row["predicted_total_bytes"] <= 7.5e9 for row in rows)
    losses = [row["expected_divergence"] for row in rows]
    assert losses == sorted(losses)
    result = run_cli("footprint", "llama-3-70b", "--fit", "8GB")
    assert result.returncode == 1
    assert result.stderr.startswith("edgellama: error: nothing fits 8.00 GB; the smallest, q2_k")


def test_a_model_of_the_cache_has_its_name_and_type(run_cli: CliRunner, tmp_path: Path) -> None:
    """What list calls it, not where it lies; and which rows of a fit are the file as it is."""
    (tmp_path / "cache" / "models").mkdir(parents=True)
    shape = TinyLlama(width=256, feed_forward=256, weight_format="Q8_0", context_length=1000)
    write_tiny_llama(tmp_path / "cache" / "models" / "small.gguf", shape)
    run = partial(run_cli, environment={"EDGELLAMA_CACHE": str(tmp_path / "cache")})
    (listed,) = json.loads(run("list", "--json").stdout)
    rows = rows_of(run, listed["name"], "--fit", "1GB", "-c", "1000")
    assert {row["model"] for row in rows} == {listed["name"]} == {"small"}
    assert {row["type"] for row in rows if row["as_it_is"]} == {listed["type"]} == {"q8_0"}
    assert "q3_k_m" in {row["type"] for row in rows if not row["as_it_is"]}
    assert run("footprint", "small").stdout.splitlines()[2].split(" | ")[:2] == [
        *("| type", "bits per weight")
    ]


def test_a_context_beyond_the_models_own_is_warned_of(run_cli: CliRunner, model: Path) -> None:
    """A line on stderr says so, once; the figures are told all the same."""
    result = run_cli("footprint", model, "-c", "1k,2k,500", "--kv", "f16")
    warning = "edgellama: warning: context of 2048 is more than the model's own 1000\n"
    assert (result.returncode, result.stderr) == (0, warning)
    assert run_cli("footprint", model, "-c", "1000").stderr == ""
    result = run_cli("bench", model, "-p", "0", "-n", "2", "-d", "999", "-r", "1", "--json")
    assert "warning: context of 1001 is more than the model's own 1000" in result.stderr
    assert json.loads(result.stdout)[0]["depth"] == 999


def test_people_and_spreadsheets(run_cli: CliRunner, model: Path) -> None:
    """Markdown has a heading and a table, CSV the names and values of JSON."""
    text = run_cli("footprint", model).stdout
    heading, empty, names, rule, *rows = text.splitlines()
    number = rows_of(run_cli, model)[0]["parameters"]
    free = "|; [0-9,.]+ [GM]B of memory are free here"
    assert re.fullmatch(f"{re.escape(str(model))}: {number:,} parameters({free})", heading)
    assert (empty, names.split("|")[1].strip(), set(rule)) == ("", "type", set("|-:"))
    assert all(row.startswith("| f32 ") for row in rows)
    lines = run_cli("footprint", model, "-o", "csv").stdout.splitlines()
    for line, row in zip(csv.DictReader(lines), rows_of(run_cli, model), strict=True):
        assert line == {name: str(value) for name, value in row.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="pages are counted in /proc")
def test_measured_memory_is_as_predicted(run_cli: CliRunner, model: Path) -> None:
    """The child fills the context, and each part and the peak agree within 5 %."""
    (row,) = rows_of(run_cli, model, "--measure", "-c", "800", "-t", "2")
    assert row["measured_tokens"] == row["context_length"] == 800
    # Memory is counted by 4,096 bytes: two layers' two heads have keys and values in the last page.
    assert abs(row["measured_kv_bytes"] - row["predicted_kv_bytes"]) <= 2 * 2 * 2 * 4096
    assert abs(row["measured_weights_bytes"] - row["predicted_weights_bytes"]) <= 4096
    assert row["measured_rss_bytes"] == pytest.approx(row["predicted_rss_bytes"], rel=0.05)
    assert row["measured_pss_bytes"] <= row["measured_rss_bytes"]
    text = run_cli("footprint", model, "--measure", "--context", "50").stdout
    assert "| peak (RSS) " in text


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_killed_measurement_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that the system has killed for want of memory is told apart from others."""
    for name, end in (("killed", "os.kill(os.getpid(), 9)"), ("ended", "os._exit(7)")):
        (tmp_path / f"{name}.py").write_text(f"import os; {end}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        EdgellamaError, match=r"was killed, .* memory ends; choose a shorter context"
    ):
        run_in_child("killed", {})
    with pytest.raises(EdgellamaError, match="process ended with exit code 7"):
        run_in_child("ended", {})


def test_plot(run_cli: CliRunner, tmp_path: Path) -> None:
    """--plot draws a picture and leaves the table alone."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "bars.png"
    result = run_cli("footprint", "smollm2-135m", "--plot", path, "--fit", "1GB")
    assert result.returncode == 0, result.stderr
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "| q8_0 " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mamba"], 1, "no file and no model called 'mamba'"),
        (["llama-3.1-9b"], 1, "'llama-3.1-9b'; did you mean llama-3.1-8b?"),
        (["{config}"], 1, "architecture 'GPT2LMHeadModel' cannot be converted"),
        (["{params}"], 1, "multiple_of is missing"),
        (["llama-2-7b", "--type", "q9"], 1, "no type is called 'q9'"),
        (["llama-2-7b", "--kv", "f16/q1"], 1, "KV type 'q1'"),
        (["llama-2-7b", "-c", "0"], 2, "'0'; allowed: whole numbers from 1 on"),
        (["llama-2-7b", "-c", "1,,2"], 2, "has an empty item"),
        (["llama-2-7b", "--fit", "much"], 1, "a memory of 'much'"),
        (["llama-2-7b", "--plot", "bars.txt"], 1, "allowed: files ending in .png"),
        (["llama-2-7b", "--measure"], 1, "no file and no model called 'llama-2-7b'"),
        (["{model}", "--measure", "--type", "q4_0"], 2, "so it takes no --type"),
        (["{model}", "--measure", "--fit", "1GB"], 2, "none of --fit, --plot, "),
        (["{model}", "--measure", "--parallel", "2"], 2, "and --parallel"),
        (["{model}", "--parallel", "0"], 2, "0 is not in the range"),
        (["{model}", "--measure", "--kv", "q1"], 1, "KV type 'q1'"),
        (["{model}", "--measure", "-c", "1,2"], 2, "one context length"),
    ],
)
def test_impossible_requests_are_one_line(
    run_cli: CliRunner,
    model: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """What cannot be done ends with one line that says so."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGURATION | {"architectures": ["GPT2LMHeadModel"]}))
    params = tmp_path / "params.json"
    params.write_text('{"dim": 64, "n_heads": 2, "n_layers": 1, "norm_eps": 1e-5}')
    words = [word.format(model=model, config=config, params=params) for word in arguments]
    result = run_cli("footprint", *words)
    assert result.returncode == code
    line = result.stderr.splitlines()[-1]
    assert line.startswith("edgellama: error: ")
    assert message in line
    assert "Traceback" not in result.stderr
