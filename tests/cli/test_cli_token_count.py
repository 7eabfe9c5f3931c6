"""Numbers of tokens on the command line."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.cli.application import COMMANDS, LazyGroup, root
from edgellama.cli.options.token_count import TokenCount, TokenCountList


@given(st.integers(1, 999_999_999))
def test_thousands_are_of_1024(number: int) -> None:
    """``8k`` and ``8K`` are 8192, alone and in lists; digits are themselves."""
    for kind in (TokenCount(min=1), TokenCountList()):
        read = [
            kind.convert(text, None, None) for text in (f"{number}k", f"{number}K", f"{number}")
        ]
        assert read in ([1024 * number] * 2 + [number], [(1024 * number,)] * 2 + [(number,)])


@pytest.mark.parametrize(
    "text", ["8x", "k", "", "8kk", "8 k", "-1k", "1.5k", "٣k", "9" * 5000 + "k"]
)
def test_other_words_are_refused(text: str) -> None:
    """Anything else is a usage error that says what is allowed."""
    for kind in (TokenCount(min=1), TokenCountList()):
        with pytest.raises(click.UsageError, match=r"allowed|range|empty"):
            kind.convert(text, None, None)


def test_every_context_takes_them() -> None:
    """Whatever command has a context's length, it takes thousands."""
    assert isinstance(root, LazyGroup)
    context = click.Context(root)
    found = []
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        found += [option.type for option in command.params if "--context" in option.opts]
    assert len(found) > 8
    assert all(isinstance(kind, (TokenCount, TokenCountList)) for kind in found)
