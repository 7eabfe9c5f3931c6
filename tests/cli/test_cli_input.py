"""How the chat reads messages: several lines, quotes, and the end of a pipe."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from edgellama.cli.chat.input import (
    PROMPT,
    PlainReader,
    TerminalReader,
    UserMessage,
    is_complete,
    unwrap,
)
from edgellama.cli.inputs.prompt_text import lines_of


def all_messages(text: str) -> list[str]:
    """Every message that a reader finds in ``text``."""
    reader = PlainReader(text.splitlines(keepends=True))
    messages = []
    while True:
        try:
            messages.append(reader.read().text)
        except EOFError:
            return messages


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", []),
        ("one\ntwo\n", ["one", "two"]),
        ("one\r\ntwo", ["one", "two"]),
        ("one \\\ntwo\nthree\n", ["one \ntwo", "three"]),
        ('"""one line"""\n', ["one line"]),
        ('"""\none\n\ntwo\n"""\nthree\n', ["one\n\ntwo", "three"]),
        ('"""one\ntwo"""\n', ["one\ntwo"]),
        ('"""\nnever closed\n', ["never closed"]),
        ("open \\\n", ["open "]),
        ('say """this""" please\n', ['say """this""" please']),
        ("\n\n", ["", ""]),
    ],
)
def test_messages_from_lines(text: str, messages: list[str]) -> None:
    """Lines become messages; fences and trailing backslashes join them."""
    assert all_messages(text) == messages


def test_a_pipe_is_utf8_whatever_the_locale() -> None:
    """Lines are read as they come; the first that is no UTF-8 is named."""
    lines = lines_of(io.BytesIO("h\u00e9\n\u4f60".encode() + b"\n\xff\n"))
    assert [next(lines), next(lines)] == ["h\u00e9\n", "\u4f60\n"]
    with pytest.raises(click.ClickException, match="standard input, line 3 is not UTF-8"):
        next(lines)


@pytest.mark.parametrize(
    ("text", "complete"),
    [("hi", True), ("hi\\", False), ('"""', False), ('"""a', False), ('"""a"""', True)],
)
def test_enter_ends_a_message_only_when_it_is_complete(text: str, complete: bool) -> None:
    """The rule that the Enter key follows on a terminal."""
    assert is_complete(text) is complete


def test_lines_from_alt_enter_stay_as_typed() -> None:
    """Line breaks inside a message without marks are its own."""
    assert unwrap("one\ntwo") == UserMessage("one\ntwo")


def test_quoted_messages_are_told_apart() -> None:
    """What stands between quotes is a message, whatever it begins with."""
    assert unwrap('"""/save x"""') == UserMessage("/save x", is_quoted=True)
    assert unwrap("/save x") == UserMessage("/save x")


@pytest.fixture
def typed(tmp_path: Path) -> Callable[[str, int], tuple[str, str]]:
    """Types keys at a prompt on a screen of some rows; the message, and what the screen got."""
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.completion import DummyCompleter
    from prompt_toolkit.data_structures import Size
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output.vt100 import Vt100_Output

    def type_keys(keys: str, rows: int) -> tuple[str, str]:
        screen = io.StringIO()
        output = Vt100_Output(screen, lambda: Size(rows=rows, columns=60), enable_cpr=False)
        with create_pipe_input() as keyboard, create_app_session(keyboard, output):
            keyboard.send_text(keys)
            message = TerminalReader(DummyCompleter(), tmp_path / "history").read()
        return message.text, screen.getvalue()

    return type_keys


def test_control_z_stops_the_chat_and_keeps_what_was_typed(
    typed: Callable[[str, int], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-Z at the prompt gives the terminal back to the shell; the line is there after fg."""
    from prompt_toolkit.application import Application

    stops: list[bool] = []
    monkeypatch.setattr(
        Application, "suspend_to_background", lambda self, group=True: stops.append(group)
    )
    assert typed("one \x1atwo\r", 24)[0] == "one two"
    assert stops == [True]


@pytest.mark.parametrize(("rows", "taken"), [(8, 2), (15, 5), (24, 8), (100, 8)])
def test_a_small_screen_keeps_what_was_said(
    typed: Callable[[str, int], tuple[str, str]], rows: int, taken: int
) -> None:
    """The prompt, with what it keeps free for its menu, takes at most a third of the screen."""
    first_drawing = typed("one\r", rows)[1].split(PROMPT.strip())[1]
    assert first_drawing.count("\n") == taken - 1
