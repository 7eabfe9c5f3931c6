"""Short options by their long names mean the same to click."""

from __future__ import annotations

from importlib import import_module

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.cli.application import COMMANDS
from edgellama.cli.options.long_names import with_long_names


@click.command()
@click.argument("words", nargs=-1)
@click.option("-p", "--prompt")
@click.option("-n", "--number", type=int, multiple=True)
@click.option("-v", "--verbose", count=True)
@click.option("-r/-R", "--raw/--cooked", default=False)
@click.option("-q", is_flag=True)
@click.option("--pair", nargs=2)
def command(**options: object) -> None:
    """Has options of every kind that edgellama's commands have, and some more."""


WORDS = ["-p", "--prompt", "-n", "-v", "-r", "-R", "-q", "--raw", "--pair", "--", "-", "5", "text"]
WORDS += ["-n5", "-p=text", "--prompt=-n", "-vv", "-qv", "-x", "--promt", "", "-pn"]


def meaning(words: list[str]) -> tuple[object, ...]:
    """What click makes of a command line, or which kind of error."""
    try:
        return (command.make_context("command", words).params,)
    except click.NoSuchOption as error:
        return (error.option_name, error.possibilities)
    except click.UsageError as error:
        return (type(error),)


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_a_command_line_means_the_same(words: list[str]) -> None:
    """Values and unknown options are read alike, whatever stands beside them."""
    assert meaning(with_long_names(command, words)) == meaning(list(words))


def test_values_stay_as_they_are() -> None:
    """A value may look like an option, and so may what follows two dashes."""
    written = with_long_names(command, ["-p", "-n", "-n", "5", "--", "-p", "x"])
    assert written == ["--prompt", "-n", "--number", "5", "--", "-p", "x"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_takes_a_value_or_is_a_flag(name: str) -> None:
    """No option of a command has a value that may be left away, which would need click's rules."""
    for option in import_module(COMMANDS[name]).command.params:
        if isinstance(option, click.Option) and not option.is_flag:
            assert not isinstance(option.flag_value, (str, bool, int))
