"""``chat`` with the real starter model: through a pipe, and on a pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import CliRunner
from interrupts import accept_interrupts

GREEDY = ("--temperature", "0", "-n", "24")
PROMPT = b">>>"


def test_pipe_gives_replies_only(run_cli: CliRunner, smollm2_path: Path) -> None:
    """Every line is a message, every reply ends with a line break, the rest is on stderr."""
    result = run_cli("chat", smollm2_path, *GREEDY, text_input="Say hello.\nAnd goodbye.\n")
    assert result.returncode == 0
    assert result.stdout.count("\n") >= 2
    assert ">>>" not in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert len(re.findall(r"tokens/s", result.stdout)) == 0
    assert len(re.findall(r"(?m)^\d+ tokens at .* tokens/s", result.stderr)) == 2


def test_only_the_new_turn_is_computed(run_cli: CliRunner, smollm2_path: Path) -> None:
    """The second turn computes few of its prompt's tokens: the rest is in the cache."""
    lines = run_cli(
        "chat", smollm2_path, *GREEDY, text_input="Tell me about the sea.\nWhy?\n"
    ).stderr.splitlines()
    figures = [re.search(r"after (\d+) of (\d+) prompt", line) for line in lines[-2:]]
    (first_new, first_all), (new, total) = [(int(m[1]), int(m[2])) for m in figures if m]
    assert first_new == first_all
    assert total > first_all + 20
    assert new <= 16


def test_commands_through_a_pipe(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """/system, /save, /clear, /load, /regen, /stats and /exit do what /help says."""
    file = tmp_path / "talk.json"
    lines = [
        "/help",
        "/system You are a parrot.",
        '"""',
        "Say",
        "hello.",
        '"""',
        f"/save {file}",
        "/clear",
        "/stats",
        f"/load {file}",
        "/regen",
        "/stats",
        "/exit",
        "never read",
    ]
    result = run_cli("chat", smollm2_path, *GREEDY, text_input="\n".join(lines))
    assert result.returncode == 0, result.stderr
    messages = json.loads(file.read_text("utf-8"))
    messages = messages["messages"] if isinstance(messages, dict) else messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert [message["content"] for message in messages[:2]] == ["You are a parrot.", "Say\nhello."]
    assert messages[2]["content"] in result.stdout
    counts = re.findall(r"(?m)^messages +(\d+)$", result.stderr)
    assert counts == ["1", "3"]
    assert "loaded 3 messages" in result.stderr
    assert "/regen" in result.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nonsense", "unknown command /nonsense; /help lists the commands"),
        ("/save", "/save needs a file name"),
        ("/load nowhere.json", "nowhere.json"),
        ("/regen", "no message to answer again"),
    ],
)
def test_wrong_command_ends_a_pipe(
    run_cli: CliRunner, smollm2_path: Path, line: str, message: str
) -> None:
    """Through a pipe an error ends the chat with exit code 1 and one line."""
    result = run_cli("chat", smollm2_path, text_input=f"{line}\nHi\n")
    assert result.returncode == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("edgellama: error: ")
    assert message in last


class Terminal:
    """``edgellama chat`` on a pseudo-terminal: type keys, wait for text."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.process_id, self._descriptor = pty.fork()
        if self.process_id == 0:
            accept_interrupts()
            os.environ.update(environment)
            os.execv(sys.executable, [sys.executable, "-m", "edgellama", "chat", *arguments])
        size = struct.pack("HHHH", 40, 100, 0, 0)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, size)
        self.output = b""

    def type(self, keys: str) -> None:
        """Sends keys as a keyboard would."""
        os.write(self._descriptor, keys.encode())

    def wait_for(self, text: bytes, *, after: int, timeout_s: float = 60) -> int:
        """Reads until ``text`` has come after position ``after``; returns the position behind."""
        deadline = time.monotonic() + timeout_s
        while (position := self.output.find(text, after)) < 0:
            assert time.monotonic() < deadline, self.output[after:]
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self.output += os.read(self._descriptor, 4096)
                # prompt_toolkit asks where the cursor is and waits for the answer.
                if self.output.endswith(b"\x1b[6n"):
                    os.write(self._descriptor, b"\x1b[1;1R")
        return position + len(text)

    def exit_code(self, timeout_s: float = 20) -> int:
        """Waits for the end of the process."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if select.select([self._descriptor], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self._descriptor, 4096)
                except OSError:
                    break
            done, status = os.waitpid(self.process_id, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
        else:
            os.kill(self.process_id, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.process_id, 0)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_interrupts_on_a_terminal(smollm2_path: Path, tmp_path: Path) -> None:
    """The first Ctrl-C stops the reply and keeps the conversation, a second in a row leaves."""
    environment = {"TERM": "xterm", "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment["EDGELLAMA_CACHE"] = str(smollm2_path.parent.parent)
    terminal = Terminal([str(smollm2_path), "--temperature", "0"], environment)
    at = terminal.wait_for(PROMPT, after=0)
    terminal.type("Tell me a very long story about llamas.\r")
    at = terminal.wait_for(b"lamas ", after=terminal.wait_for(b"story", after=at) + 20)
    terminal.type("\x03")
    at = terminal.wait_for(b"Ctrl-C again leaves", after=at, timeout_s=5)
    at = terminal.wait_for(PROMPT, after=at)
    terminal.type("/stats\r")
    at = terminal.wait_for(b"messages        2", after=at)
    at = terminal.wait_for(PROMPT, after=at)
    terminal.type("draft\x03")
    terminal.type("\x03")
    at = terminal.wait_for(b"Ctrl-C again leaves", after=at)
    at = terminal.wait_for(PROMPT, after=at)
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    assert b"Traceback" not in terminal.output
    assert b"\x1b[2m" in terminal.output
    history = next(tmp_path.rglob("history")).read_text("utf-8")
    assert "+Tell me a very long story about llamas." in history


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_no_color_on_a_terminal(smollm2_path: Path, tmp_path: Path) -> None:
    """NO_COLOR keeps our own lines plain; Ctrl-D leaves with success."""
    environment = {"TERM": "xterm", "NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path)}
    environment["EDGELLAMA_CACHE"] = str(smollm2_path.parent.parent)
    terminal = Terminal([str(smollm2_path), *GREEDY], environment)
    at = terminal.wait_for(PROMPT, after=0)
    terminal.type('"""one\r')
    terminal.type('two"""\r')
    at = terminal.wait_for(b"tokens/s", after=at)
    terminal.wait_for(PROMPT, after=at)
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert b"\x1b[2m" not in terminal.output
