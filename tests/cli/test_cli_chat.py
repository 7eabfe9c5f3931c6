"""``chat`` with the real starter model: through a pipe, and on a pseudo-terminal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import CliRunner
from harness.pseudo_terminal import PROMPT, Terminal, chat_environment

GREEDY = ("--temp", "0", "-n", "24")
SMALL = ("--temp", "0", "-n", "16", "-c", "160")
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


def test_pipe_gives_replies_only(run_cli: CliRunner, smollm2_path: Path) -> None:
    """Every line is a message, every reply ends with a line break, the rest is on stderr."""
    result = run_cli("chat", smollm2_path, *GREEDY, text_input="Say hello.\nAnd goodbye.\n")
    assert result.returncode == 0
    assert result.stdout.count("\n") >= 2
    assert ">>>" not in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert len(re.findall(r"tokens/s", result.stdout)) == 0
    assert len(re.findall(r"(?m)^\d+ tokens? at .* tokens/s", result.stderr)) == 2


def test_only_the_new_turn_is_computed(run_cli: CliRunner, smollm2_path: Path) -> None:
    """The second turn computes few of its prompt's tokens: the rest is in the cache."""
    lines = run_cli(
        "chat", smollm2_path, *GREEDY, text_input="Tell me about the sea.\nWhy?\n"
    ).stderr.splitlines()
    (total_of_first,) = re.findall(r"; prompt: (\d+) tokens at", lines[-2])
    ((new, total),) = re.findall(r"; prompt: (\d+) new of (\d+) at", lines[-1])
    assert int(total) > int(total_of_first) + 20
    assert int(new) <= 16


def test_text_from_a_pipe_is_never_a_command(
    run_cli: CliRunner, smollm2_path: Path, tmp_path: Path
) -> None:
    """What would be a command on a terminal is a message, and writes no file."""
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    lines = [f"/save {victim}", "/bye", '"""', "/clear", "it", '"""']
    result = run_cli("chat", smollm2_path, *GREEDY, text_input="\n".join(lines))
    assert result.returncode == 0, result.stderr
    assert victim.read_text() == "precious"
    assert len(re.findall(r"(?m)^\d+ tokens? at .* tokens/s", result.stderr)) == 3


def test_a_full_context_through_a_pipe(run_cli: CliRunner, smollm2_path: Path) -> None:
    """The conversation goes on and says in one line what the model no longer sees."""
    lines = "".join(f"Tell me about the number {number}.\n" for number in range(8))
    result = run_cli("chat", smollm2_path, *SMALL, text_input=lines)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"(?m)^\d+ tokens? at .* tokens/s", result.stderr)) == 8
    said = [line for line in result.stderr.splitlines() if "no longer seen" in line]
    assert 1 <= len(said) < 7
    assert "the context of 160 tokens is full" in said[0]


@pytest.mark.parametrize(("way", "exit_code"), [("stop", 0), ("error", 1)])
def test_other_ways_to_be_full(
    run_cli: CliRunner, smollm2_path: Path, way: str, exit_code: int
) -> None:
    """The chat ends there, with the reason as its last line."""
    lines = "".join(f"Tell me about the number {number}.\n" for number in range(8))
    result = run_cli("chat", smollm2_path, *SMALL, "--when-full", way, text_input=lines)
    assert result.returncode == exit_code
    assert result.stderr.count("tokens/s, after") < 8
    assert re.search(
        "context is full|context of 160|the context 160|160 maximum", result.stderr.splitlines()[-1]
    )


@needs_terminal
def test_interrupts_on_a_terminal(smollm2_path: Path, tmp_path: Path) -> None:
    """The first Ctrl-C stops the reply and keeps the conversation, a second in a row leaves."""
    environment = chat_environment(smollm2_path, tmp_path)
    terminal = Terminal([str(smollm2_path), "--temperature", "0"], environment)
    at = terminal.wait_for(PROMPT, after=0)
    terminal.type("Tell me a very long story about llamas.\r")
    at = terminal.wait_for(b"lamas ", after=terminal.wait_for(b"story", after=at) + 20)
    terminal.type("\x03")
    at = terminal.wait_for(b"press Ctrl-C again to leave", after=at, timeout_s=20)
    at = terminal.wait_for(PROMPT, after=at)
    terminal.type("/stats\r")
    at = terminal.wait_for(b"messages        2", after=at)
    at = terminal.wait_for(PROMPT, after=at)
    terminal.type("draft\x03")
    terminal.type("\x03")
    at = terminal.wait_for(b"press Ctrl-C again to leave", after=at)
    at = terminal.wait_for(PROMPT, after=at)
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    assert b"Traceback" not in terminal.output
    assert b"\x1b[2m" in terminal.output
    history = next(tmp_path.rglob("history")).read_text("utf-8")
    assert "+Tell me a very long story about llamas." in history


@needs_terminal
def test_no_color_on_a_terminal(smollm2_path: Path, tmp_path: Path) -> None:
    """NO_COLOR keeps our own lines plain; Ctrl-D leaves with success."""
    environment = {**chat_environment(smollm2_path, tmp_path), "NO_COLOR": "1"}
    terminal = Terminal([str(smollm2_path), *GREEDY], environment)
    at = terminal.wait_for(PROMPT, after=0)
    terminal.type('"""one\r')
    terminal.type('two"""\r')
    at = terminal.wait_for(b"tokens/s", after=at)
    terminal.wait_for(PROMPT, after=at)
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert b"\x1b[2m" not in terminal.output


@needs_terminal
def test_commands_on_a_terminal(smollm2_path: Path, tmp_path: Path) -> None:
    """Commands do what /help says, quoted and unknown names are messages, slips are told."""
    environment = {**chat_environment(smollm2_path, tmp_path), "NO_COLOR": "1"}
    terminal = Terminal([str(smollm2_path), *GREEDY], environment)
    at = terminal.wait_for(PROMPT, after=0)
    replies = b"tokens/s"
    for typed, shown in (
        ("/?", b"/undo"),
        ("/system You are a parrot.", b"applies from the next"),
        ('"""/bye"""', replies),
        ("/usr/bin is a folder", replies),
        ("/sav x", b"did you mean /save?"),
        ("/undo", b"taken back: /usr/bin is a folder"),
        ("/set temp 0.5", b"temperature is 0.5"),
        ("/set temp default", b"temperature is 0.2"),
        ("/set topk 1", b"did you mean top_k?"),
        ("/set top_p 2", b"error: top_p is 2.0; allowed: "),
        ("/show", b"peak memory"),
        ("/show template", b"im_start"),
        ("/save ~/talk.json", b"saved to"),  # A long path begins a line.
        ("/save ~/talk.json", b"overwrite it?"),
        ("/system none", b"next reply has no system prompt"),
        ("/clear", b"started over"),
        ("/regen", b"error: there is no message to answer again"),
        ("/load ~/talk.json", b"loaded 3 messages"),
        ("/model smollm2", b"q4_1"),
        ("/regen", replies),
    ):
        terminal.type(f"{typed}\r")
        at = terminal.wait_for(shown, after=at)
        if shown == b"overwrite it?":
            terminal.type("n\r")
            at = terminal.wait_for(b"nothing was saved", after=at)
        at = terminal.wait_for(PROMPT, after=at)
    terminal.type("/bye\r")
    assert terminal.exit_code() == 0
    assert b"Traceback" not in terminal.output
    messages = json.loads((tmp_path / "talk.json").read_text("utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert [message["content"] for message in messages[:2]] == ["You are a parrot.", "/bye"]


@needs_terminal
def test_what_is_typed_during_a_reply(smollm2_path: Path, tmp_path: Path) -> None:
    """It is not shown within the reply, but at the next prompt; the terminal echoes again."""
    environment = chat_environment(smollm2_path, tmp_path)
    terminal = Terminal([str(smollm2_path), "--temp", "0", "-n", "300"], environment)
    at = terminal.wait_for(PROMPT, after=0)
    terminal.type("Tell me a very long story about llamas.\r")
    at = terminal.wait_for(b"lamas ", after=terminal.wait_for(b"story", after=at) + 20)
    assert not terminal.echoes()
    terminal.type("XYZZY")
    at = terminal.wait_for(b"tokens/s", after=at)
    assert b"XYZZY" not in terminal.output[:at]
    terminal.wait_for(b"XYZZY", after=at)
    terminal.type("\x03\x04")
    assert terminal.exit_code() == 0
    assert terminal.echoes()


@needs_terminal
def test_pasted_tabs_are_shown_as_spaces(smollm2_path: Path, tmp_path: Path) -> None:
    """Lines of code look as they were copied, and the model gets their tabs."""
    kept = tmp_path / "kept.json"
    terminal = Terminal([str(smollm2_path), "-n", "1"], chat_environment(smollm2_path, tmp_path))
    at = terminal.wait_for(PROMPT, after=0)
    terminal.type("\x1b[200~def f():\n\treturn 1\x1b[201~\r")
    at = terminal.wait_for(PROMPT, after=terminal.wait_for(b"tokens/s", after=at))
    assert b"return 1" in terminal.output and b"^I" not in terminal.output
    terminal.type(f"/save {kept}\r")
    terminal.wait_for(PROMPT, after=terminal.wait_for(b"saved", after=at))
    assert json.loads(kept.read_text())["messages"][0]["content"] == "def f():\n\treturn 1"
    terminal.type("\x04")
    assert terminal.exit_code() == 0


@needs_terminal
def test_an_interrupted_prompt(smollm2_path: Path, tmp_path: Path) -> None:
    """A long prompt shows how far it is read, and Ctrl-C ends it."""
    environment = chat_environment(smollm2_path, tmp_path)
    terminal = Terminal([str(smollm2_path), "-t", "1"], environment)
    at = terminal.wait_for(PROMPT, after=0)
    text = " ".join(f"word{number} is here." for number in range(900))
    terminal.type(f"\x1b[200~{text}\x1b[201~\r")
    at = terminal.wait_for(b"reading the prompt", after=at)
    terminal.type("\x03")
    at = terminal.wait_for(b"it had said nothing yet", after=at)
    terminal.wait_for(PROMPT, after=at)
    terminal.type("\x03")
    assert terminal.exit_code() == 130


@needs_terminal
def test_searching_what_was_typed(smollm2_path: Path, tmp_path: Path) -> None:
    """Ctrl-R finds an earlier line and Enter takes it; long lines have no marks of their own."""
    environment = {**chat_environment(smollm2_path, tmp_path), "NO_COLOR": "1"}
    terminal = Terminal([str(smollm2_path), *GREEDY], environment, columns=50)
    at = terminal.wait_for(PROMPT, after=0)
    terminal.type("/system " + "kind " * 20 + "\r")
    at = terminal.wait_for(PROMPT, after=terminal.wait_for(b"applies from", after=at))
    assert b"... " not in terminal.output[:at]
    terminal.type("/stats\r")
    at = terminal.wait_for(PROMPT, after=terminal.wait_for(b"peak memory", after=at))
    terminal.type("\x12kind k\r")
    at = terminal.wait_for(b"applies from", after=at)
    terminal.wait_for(PROMPT, after=at)
    terminal.type("\x04")
    assert terminal.exit_code() == 0
