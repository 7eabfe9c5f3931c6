'''Reads one message after another from a person or a pipe.

A message may have several lines: between """ and """, after a backslash at the end, or (on a
terminal) after Alt-Enter. ``chat`` knows what a message means.
'''

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

FENCE = '"""'
PROMPT = ">>> "
MENU_ROWS = 8
"""Of a prompt with what it may be completed to, where the screen has room."""


@dataclass(frozen=True)
class UserMessage:
    """What a user wrote; what was quoted is a message, whatever it begins with."""

    text: str
    is_quoted: bool = False


class MessageReader(Protocol):
    """Where messages come from."""

    def read(self) -> UserMessage:
        """The next message; EOFError at the end, KeyboardInterrupt for Ctrl-C."""
        ...


def is_complete(text: str) -> bool:
    """Whether Enter ends the message, so far ``text``, or only its line."""
    if text.startswith(FENCE):
        return len(text) >= 2 * len(FENCE) and text.rstrip().endswith(FENCE)
    return not text.endswith("\\")


def unwrap(text: str) -> UserMessage:
    """The message itself, without the marks that held its lines together."""
    if text.startswith(FENCE):
        inner = text.strip().removeprefix(FENCE).removesuffix(FENCE)
        return UserMessage(inner.strip("\n"), is_quoted=True)
    return UserMessage(text.replace("\\\n", "\n"))


class PlainReader:
    """Messages from lines of text; the end of the text also ends an open message."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines: Iterator[str] = iter(lines)

    def read(self) -> UserMessage:
        """The next message, over as many lines as it takes."""
        text = ""
        for line in self._lines:
            text += line.rstrip("\r\n")
            if is_complete(text):
                return unwrap(text)
            text += "\n"
        if text:
            return unwrap(text.rstrip("\n").removesuffix("\\"))
        raise EOFError


class TerminalReader:
    """Messages typed at a prompt with editing, completion, and a history file."""

    def __init__(self, completer: Completer, history_file: Path) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.layout.processors import TabsProcessor

        self._session: PromptSession[str] = PromptSession(
            history=_open_history(history_file),
            multiline=True,
            key_bindings=_key_bindings(),
            completer=completer,
            complete_while_typing=True,
            prompt_continuation=_continuation,
            enable_open_in_editor=True,
            enable_suspend=True,
            input_processors=[TabsProcessor(char1=" ", char2=" ")],
        )

    def read(self) -> UserMessage:
        """The next message; Ctrl-C on a line with text only clears the line."""
        rows = self._session.output.get_size().rows
        menu_rows = min(MENU_ROWS, rows // 3)  # They push what was said off a small screen.
        return unwrap(self._session.prompt(PROMPT, reserve_space_for_menu=menu_rows))


def history_path() -> Path:
    """The file of past messages in the user's state folder."""
    from platformdirs import user_state_path

    return user_state_path("edgellama", appauthor=False) / "history"


def _continuation(width: int, line_number: int, wrap_count: int) -> str:
    """What stands before a line of its own; a line that the terminal's edge cut has nothing."""
    return "" if wrap_count else "... "


def _open_history(file: Path) -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def _key_bindings() -> KeyBindings:
    from prompt_toolkit.filters import is_searching
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.search import accept_search

    bindings = KeyBindings()

    def accept_or_continue(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.newline(copy_margin=False)

    def accept_found(event: KeyPressEvent) -> None:
        accept_search()
        accept_or_continue(event)

    def insert_newline(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    def clear_or_interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    # While Ctrl-R searches, keys belong to the search, but Enter takes what was found.
    bindings.add("enter", filter=is_searching)(accept_found)
    bindings.add("enter", filter=~is_searching)(accept_or_continue)
    bindings.add("escape", "enter", filter=~is_searching)(insert_newline)
    bindings.add("c-c", filter=~is_searching)(clear_or_interrupt)
    return bindings
