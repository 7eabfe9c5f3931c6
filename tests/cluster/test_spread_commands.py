"""Commands of one machine with ``--machines``: the same texts, and what cannot be said to them."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import CliRunner

HERE = ("--machines", "here:4GB:20")


def test_generate_writes_the_text_of_one_process(tiny_path: Path, run_cli: CliRunner) -> None:
    """With log-probabilities, and in the background of other programs."""
    asked = ("generate", tiny_path, "-p", "Hello", "-n", "12", "--seed", "3", "--exact", "--json")
    asked += ("--logprobs", "2", "--temperature", "0.9")
    alone, spread = (run_cli(*asked, *how) for how in ((), (*HERE, "--low-priority")))
    assert spread.returncode == 0, spread.stderr
    found, expected = json.loads(spread.stdout), json.loads(alone.stdout)
    for key in ("text", "tokens", "logprobs", "finish_reason"):
        assert found[key] == expected[key]


def test_chat_talks_over_machines(tiny_path: Path, run_cli: CliRunner) -> None:
    """Replies of a pipe are those of one process; a conversation that is kept is continued."""
    asked = ("chat", tiny_path, "-n", "8", "--seed", "3", "--exact")
    alone, spread = (run_cli(*asked, *how, text_input="Hello\nAgain\n") for how in ((), HERE))
    assert spread.returncode == 0, spread.stderr
    assert spread.stdout == alone.stdout != ""


def test_what_a_spread_model_has_not_is_named(tiny_path: Path, run_cli: CliRunner) -> None:
    """By the option, with those that there are; and what does not fit, with what would do."""
    for command in (("generate", "-p", "Hi"), ("chat",)):
        refused = run_cli(command[0], tiny_path, *command[1:], *HERE, "--prompt-cache", "1MB")
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
        assert "--prompt-cache is nothing that a model over several machines" in refused.stderr
        assert "--context, --kv, --exact, --threads" in refused.stderr
    full = run_cli("chat", tiny_path, "--machines", "here:1MB:20")
    assert full.returncode == 1 and "a further machine of" in full.stderr


def test_an_address_without_machines_is_refused(tiny_path: Path, run_cli: CliRunner) -> None:
    """Nobody is to believe that a model runs elsewhere."""
    for command in (("generate", "-p", "Hi"), ("chat",), ("serve",)):
        refused = run_cli(command[0], tiny_path, *command[1:], "--address", "head:6379")
        assert refused.returncode == 2 and "--address needs --machines" in refused.stderr


def test_an_address_that_is_not_needed_is_said(tiny_path: Path, run_cli: CliRunner) -> None:
    """Where all layers find room here nobody is reached, and the text is made all the same."""
    address = ("--address", "127.0.0.1:1")
    for command in ("generate", "cluster run"):
        words = (*command.split(), tiny_path, *HERE, *address, "-p", "Hi", "-n", "2")
        found = run_cli(*words)
        assert found.returncode == 0, found.stderr
        assert "--address 127.0.0.1:1 is not used: this machine, here, has room" in found.stderr
