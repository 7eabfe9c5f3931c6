"""How the chat reads messages: several lines, quotes, and the end of a pipe."""

from __future__ import annotations

import io

import click
import pytest

from edgellama.cli.chat.input import PlainReader, UserMessage, is_complete, unwrap
from edgellama.cli.prompt_text import lines_of


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
