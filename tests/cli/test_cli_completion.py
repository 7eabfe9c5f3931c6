"""What a shell is told when somebody presses Tab, and a real bash that asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CliRunner

PULLED = "hf/bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q8_0.gguf"
Complete = Callable[[str], list[str]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with two models, whose contents do not matter."""
    for name in (PULLED, "mine.gguf"):
        path = tmp_path / "cache" / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "cache"


@pytest.fixture
def complete(run_cli: CliRunner, cache: Path) -> Complete:
    """The plain completions of the last word of a line, as bash asks for them."""

    def run(line: str) -> list[str]:
        environment = {
            "EDGELLAMA_CACHE": str(cache),
            "_EDGELLAMA_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        result = run_cli(environment=environment)
        assert result.stderr == ""
        return result.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgellama cha", ["plain,chat"]),
        ("edgellama chat --temp", ["plain,--template", "plain,--temperature", "plain,--temp"]),
        ("edgellama chat mi", ["file,mi", "plain,mine", "plain,mistral:7b"]),
        ("edgellama inspect llama3.2:1b-q8", ["file,llama3.2:1b-q8", "plain,llama3.2:1b-q8_0"]),
        ("edgellama rm ll", ["plain,llama3.2:1b-q8_0"]),
        (
            "edgellama pull llama3.1:8b-q4_k",
            ["plain,llama3.1:8b-q4_k_s", "plain,llama3.1:8b-q4_k_m"],
        ),
        ("edgellama chat mine --type q4_k", ["plain,q4_k_s", "plain,q4_k_m"]),
        ("edgellama convert x --output-tensor-type iq", ["plain,iq4_nl", "plain,iq4_xs"]),
        ("edgellama footprint llama-3.2-3", ["file,llama-3.2-3", "plain,llama-3.2-3b"]),
        ("edgellama footprint x --type q4_0,q8", ["plain,q4_0,q8_0"]),
        ("edgellama chat mine --kv q8_0/q", ["plain,q8_0/q8_0", "plain,q8_0/q4_0"]),
        ("edgellama profile mine --tier gen", ["plain,generic"]),
        ("edgellama generate mine -f sto", ["file,sto"]),
        ("edgellama clean ker", ["plain,kernels"]),
        ("edgellama chat mine --template llama", ["file,llama", "plain,llama2", "plain,llama3"]),
        ("edgellama convert x --pre deepseek-c", ["plain,deepseek-coder"]),
    ],
)
def test_completions(complete: Complete, line: str, expected: list[str]) -> None:
    """Commands, options, models, types and paths are completed where they belong."""
    assert complete(line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(run_cli: CliRunner, shell: str) -> None:
    """Each shell gets a script that names the variable by which it asks."""
    result = run_cli(environment={"_EDGELLAMA_COMPLETE": f"{shell}_source"})
    assert result.returncode == 0
    assert f"_EDGELLAMA_COMPLETE={shell}_complete" in result.stdout


def bash_is_new_enough() -> bool:
    """Whether there is a bash that click supports."""
    program = shutil.which("bash")
    if program is None:
        return False
    test = "(( BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404 ))"
    return subprocess.run([program, "--norc", "-c", test], check=False).returncode == 0


@pytest.mark.skipif(not bash_is_new_enough(), reason="needs bash 4.4 or later")
def test_bash(cache: Path, tmp_path: Path) -> None:
    """A bash that has read the script keeps names with colons in one piece."""
    command = tmp_path / "bin" / "edgellama"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgellama "$@"\n')
    command.chmod(0o755)
    program = (
        'eval "$(_EDGELLAMA_COMPLETE=bash_source edgellama)"\n'
        "compopt() { :; }\n"
        "COMP_WORDS=(edgellama rm llama3.2:); COMP_CWORD=2\n"
        "_edgellama_completion edgellama\n"
        'printf "%s\\n" "${COMPREPLY[@]}" "$COMP_WORDBREAKS"'
    )
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "--norc", "-c", program],
        env={**environment, "EDGELLAMA_CACHE": str(cache)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    reply, *breaks = result.stdout.split("\n", 1)
    assert reply == "llama3.2:1b-q8_0", result.stderr
    assert ":" not in "".join(breaks)
