"""The command's help, and what it says when it is used wrongly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cli_reference
import click
import pytest
from conftest import CliRunner

from edgellama.cli import application
from edgellama.cli.application import COMMANDS
from edgellama.cli.options.sampling_options import SAMPLING_OPTIONS
from edgellama.quant.errors import KernelError
from edgellama.sampling.presets import CHAT_SAMPLING

HEAVY_MODULES = ("numpy", "numba", "llvmlite", "rich", "prompt_toolkit", "jinja2", "tiktoken")


def shown_help(run_cli: CliRunner, *arguments: str) -> str:
    """What a command's ``--help`` prints for a terminal of 80 columns; no line is longer."""
    result = run_cli(*arguments, "--help", environment={"COLUMNS": "80"})
    assert (result.returncode, result.stderr) == (0, "")
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []
    return result.stdout


def test_help_names_every_command(run_cli: CliRunner) -> None:
    """``--help`` lists the commands of the table, and cuts off none of its texts by dots."""
    text = shown_help(run_cli)
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert [line for line in text.splitlines()[1:] if line.endswith("...")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_examples(run_cli: CliRunner, name: str) -> None:
    """Each command's help fits a terminal and has examples that use it."""
    assert f"edgellama {name}" in shown_help(run_cli, name).partition("Examples:")[2]


def test_the_word_help_shows_the_same(run_cli: CliRunner) -> None:
    """Alone, and before the name of a command."""
    assert run_cli("help").stdout == run_cli("help", "help").stdout == run_cli("--help").stdout
    assert '"edgellama help COMMAND" shows' in run_cli("help").stdout
    assert run_cli("help", "chat").stdout == run_cli("chat", "--help").stdout
    assert "No such command 'nonsense'" in run_cli("help", "nonsense").stderr


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["chat", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Help is shown without numpy, numba or any library for text or terminals."""
    program = (
        "import sys\n"
        "from edgellama.cli.application import run\n"
        f"run({arguments!r})\n"
        f"print([name for name in {HEAVY_MODULES!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["genrate", "smollm2"], "No such command 'genrate'. Did you mean 'generate'?"),
        (["run", "smollm2"], "No such command 'run'. Did you mean 'chat'?"),
        (["chat", "-m", "smollm2"], "MODEL needs none: edgellama chat smollm2"),
        (["bench", "--model", "x"], "MODEL needs none: edgellama bench smollm2"),
        (["generate", "Why is it so?"], "'Why is it so?' stands in the place of MODEL; a prompt"),
        (["pull"], "Missing argument 'MODEL'"),
        (["chat", "x.gguf", "--system"], "requires an argument. (see: edgellama chat --help)"),
        (["generate", "x.gguf"], "no prompt"),
        (["generate", "x.gguf", "-p", "a", "-"], "several prompts"),
        (["generate", "x.gguf", "y.gguf", "-p", "a"], "one MODEL at most"),
        (["generate", "x.gguf", "-p", "a", "--temperature", "warm"], "--temperature"),
        (["generate", "x.gguf", "-p", "a", "--chat", "--parse-special"], "--parse-special"),
        (["generate", "x.gguf", "-p", "a", "--system", "b"], "--system needs --chat"),
        (["tokenize", "x.gguf", "a", "--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_one_line(run_cli: CliRunner, arguments: list[str], message: str) -> None:
    """A wrong command line gives exit code 2, and one line that points to the help."""
    result = run_cli(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("edgellama: error: ")
    assert message in line
    assert "--help)" in line


def test_empty_pipe_is_no_prompt(run_cli: CliRunner) -> None:
    """Where nothing comes through the pipe, the error is that of no prompt at all."""
    result = run_cli("generate", "x.gguf", text_input="")
    assert result.returncode == 2
    assert "no prompt; give one of" in result.stderr


def test_no_command_shows_the_help(run_cli: CliRunner) -> None:
    """The bare command shows the help, and ends as wrong usage does."""
    result = run_cli()
    assert result.returncode == 2
    assert "Commands:" in result.stderr


@pytest.mark.parametrize("name", ["chat", "generate", "inspect", "tokenize", "warmup"])
def test_missing_model_is_one_line(run_cli: CliRunner, name: str) -> None:
    """A model that is nowhere gives exit code 1 and one line that says what can be given."""
    arguments = {"generate": ["-p", "a"], "tokenize": ["a"]}.get(name, [])
    result = run_cli(name, "no-such.gguf", *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line == "edgellama: error: no-such.gguf: no such file"


def test_traceback_only_on_request(run_cli: CliRunner) -> None:
    """EDGELLAMA_DEBUG=1 lets the traceback of an error through."""
    result = run_cli("inspect", "no-such.gguf", environment={"EDGELLAMA_DEBUG": "1"})
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ModelNotFoundError" in result.stderr


def failing_command(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a command ``fail`` into the table that raises ``error``."""

    def fail() -> None:
        raise error

    module = SimpleNamespace(command=click.Command("fail", callback=fail))
    monkeypatch.setitem(sys.modules, "failing_module", module)
    monkeypatch.setattr(application, "COMMANDS", {"fail": "failing_module"})


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KernelError("no tier"), "no tier"),
        (KernelError("failed:\nTraceback\n  line\nKeyError: 1"), "failed: KeyError: 1 (all of it:"),
        (OSError(28, "No space left on device", "/x"), "/x: No space left on device"),
        (MemoryError(), "out of memory"),
        (ZeroDivisionError("by zero"), "internal error, ZeroDivisionError: by zero (traceback:"),
    ],
)
def test_every_error_is_one_line(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever a command raises becomes one line and exit code 1, never a traceback."""
    failing_command(error, monkeypatch)
    assert application.run(["fail"]) == 1
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"edgellama: error: {line}")


def test_version(run_cli: CliRunner) -> None:
    """``--version`` prints the name and the installed version."""
    from importlib.metadata import version

    assert run_cli("--version").stdout == f"edgellama {version('edgellama')}\n"


def test_reader_that_goes_away_is_quiet(smollm2_path: Path) -> None:
    """When the reader of a long output closes its end, nothing is complained about."""
    command = [sys.executable, "-m", "edgellama", "inspect", str(smollm2_path), "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert result.returncode == 141
    assert result.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a shell and /dev/full")
@pytest.mark.parametrize(
    ("streams", "exit_code", "complaint"),
    [
        ("<&- >&-", 0, ""),
        ("2>&-", 0, ""),
        (">/dev/full", 1, "edgellama: error: standard output: No space left on device\n"),
    ],
)
def test_streams_that_are_closed_or_full(streams: str, exit_code: int, complaint: str) -> None:
    """A command runs without its standard streams, and a full disk is one line on stderr."""
    shell = ["sh", "-c", f'exec "$0" -m edgellama show --help {streams}', sys.executable]
    result = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (exit_code, complaint)


def test_reference_page_has_every_variable() -> None:
    """docs/cli.md lists every environment variable of ours that the sources name."""
    root = cli_reference.PAGE.parent.parent
    folders = ("edgellama", "quant", "convert", "kernels_cpu")
    sources = [path.read_text("utf-8") for name in folders for path in (root / name).rglob("*.py")]
    found = {name for text in sources for name in re.findall(r"\bEDGELLAMA_[A-Z_]+\b", text)}
    assert found <= set(cli_reference.VARIABLES)


def test_reference_page_is_current() -> None:
    """docs/cli.md says what the commands' help says (else: python tests/cli_reference.py)."""
    written = cli_reference.PAGE.read_text("utf-8")
    assert written.split() == cli_reference.render_page().split()


def test_help_tells_the_defaults_of_chats() -> None:
    """Commands that chat on demand say what is otherwise then, by the table of the Python API."""
    page = cli_reference.render_page()
    for command in ("generate", "batch"):
        text = " ".join(page.partition(f"## edgellama {command}\n")[2].partition("## ")[0].split())
        for value in [v for name, v in CHAT_SAMPLING.items() if name in SAMPLING_OPTIONS]:
            assert f"in chats the model's own, else {value}]" in text
