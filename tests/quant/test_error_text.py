"""How values stand in messages of errors: short, in ASCII, on one line."""

from __future__ import annotations

import pytest

from edgellama.quant.error_text import (
    MAX_SHOWN_CHARACTERS,
    did_you_mean,
    nearest,
    shape_text,
    shown,
    system_error_text,
)

LONG = "a" * (MAX_SHOWN_CHARACTERS - 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "None"), (True, "True"), (3, "3"), (0.5, "0.5"), ("a\nb", r"'a\nb'")),
        *((b"a", "b'a'"), ("\u00e9", r"'\xe9'"), ([1], "of type list"), (object, "of type type")),
        *((LONG, f"'{LONG}'"), (LONG + "a", f"'{LONG}a...")),
    ],
)
def test_values(value: object, text: str) -> None:
    """Texts and numbers stand as Python writes them, cut if they are long; others by their type."""
    assert shown(value) == text


def test_the_name_that_is_meant() -> None:
    """A slip of a known name leads to it; anything else leads nowhere."""
    known = ["temperature", "top_p"]
    assert nearest("temprature", known) == "temperature"
    assert nearest("x" * 10_000, known) is None and nearest(5, known) is None
    assert did_you_mean("top_p") == "did you mean top_p? " and did_you_mean(None) == ""


def test_shapes() -> None:
    """A shape is its sizes; a single number has none."""
    assert shape_text((2048, 512)) == "2048 x 512" and shape_text(()) == "none"


def test_what_the_system_refuses() -> None:
    """The file if there is one, and the reason without a number."""
    assert system_error_text(OSError(13, "Permission denied", "/a")) == "/a: Permission denied"
    assert system_error_text(OSError(28, "No space left")) == "No space left"
    assert system_error_text(OSError("odd")) == "odd"
