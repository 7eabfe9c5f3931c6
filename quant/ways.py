"""What a reader can do about an error or a warning, in words for the place where it is read.

A library's user writes calls, a terminal's user types commands. Only the command line knows that it
is one; everywhere else the words are Python's.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class Way:
    """The same advice twice: ``python`` for a program, ``command`` for a terminal.

    As an argument of a log record it is written as the record's reader needs it.
    """

    python: str
    command: str

    def __str__(self) -> str:
        return self.python


def command_line(*words: object) -> str:
    """A command of edgellama as a shell takes it."""
    import shlex  # which advice alone needs

    return shlex.join(["edgellama", *map(str, words)])


def install_command(*packages: str) -> str:
    """A command that installs packages where this Python looks for them, in any environment."""
    import shlex
    import sys

    return shlex.join([sys.executable or "python", "-m", "pip", "install", *packages])


def in_terminal(arguments: object) -> object:
    """Arguments of a log record, with what a terminal's user can do."""
    if isinstance(arguments, Sequence) and not isinstance(arguments, str):
        return tuple(part.command if isinstance(part, Way) else part for part in arguments)
    return arguments
