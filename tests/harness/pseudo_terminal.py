"""``edgellama chat`` on a pseudo-terminal, for tests that type."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from pathlib import Path

from harness.interrupts import accept_interrupts

LINES = 40
PROMPT = b">>>"
LINE_WRAPPING = re.compile(rb"\x1b\[\?7[hl]")
"""What surrounds every piece that is written, which may end in the middle of a word."""


def chat_environment(model: Path, home: Path) -> dict[str, str]:
    """Variables of a user whose home is ``home`` and whose cache holds ``model``."""
    return {
        "TERM": "xterm",
        "HOME": str(home),
        "XDG_STATE_HOME": str(home),
        "EDGELLAMA_CACHE": str(model.parent.parent),
    }


class Terminal:
    """``edgellama chat`` on a pseudo-terminal: type keys, wait for text."""

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        *,
        columns: int = 100,
    ) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.process_id, self._descriptor = pty.fork()
        if self.process_id == 0:
            accept_interrupts()
            os.environ.update(environment)
            os.execv(sys.executable, [sys.executable, "-m", "edgellama", "chat", *arguments])
        size = struct.pack("HHHH", LINES, columns, 0, 0)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, size)
        self.output = b""

    def type(self, keys: str) -> None:
        """Send keys as a keyboard would."""
        os.write(self._descriptor, keys.encode())

    def wait_for(self, text: bytes, *, after: int, timeout_s: float = 60) -> int:
        """Read until ``text`` has come after position ``after``; return the position behind.

        Where lines are wrapped or not is left out.
        """
        deadline = time.monotonic() + timeout_s
        while (position := self.output.find(text, after)) < 0:
            assert time.monotonic() < deadline, self.output[after:]
            if select.select([self._descriptor], [], [], 0.1)[0]:
                new = os.read(self._descriptor, 4096)
                self.output = LINE_WRAPPING.sub(b"", self.output + new)
                # prompt_toolkit asks where the cursor is and waits for the answer.
                os.write(self._descriptor, b"\x1b[1;1R" * new.count(b"\x1b[6n"))
        return position + len(text)

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        import termios

        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ECHO)

    def exit_code(self, timeout_s: float = 60) -> int:
        """Wait for the end of the process."""
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
